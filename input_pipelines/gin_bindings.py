"""gin for the preprocessors of seqio Tasks, and for nothing else.

gin has one configuration for the whole process. While a Task's text is read it holds that
Task's bindings; afterwards its previous bindings are restored. So a Task without statements
gets the bindings that modules made on import, in whatever order Tasks are read.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import gin
from gin import config_parser

from input_pipelines.allowed_packages import check_allowed
from layers.errors import UserError

_CURE = "see --gin_file and --gin_bindings"


@contextlib.contextmanager
def bound(statements: Sequence[str]) -> Iterator[None]:
  """Puts these gin statements in force for the `with` block; without any, gin is unchanged.

  The modules that register the named functions must be imported already. Raises UserError if a
  statement names something unknown, or if a required value is missing.
  """
  with contextlib.ExitStack() as stack:
    if statements:
      stack.callback(_replace_config, gin.config_str())
      _parse(statements)
    try:
      yield
    except RuntimeError as error:
      if "Required bindings" not in str(error):
        raise
      raise UserError(f"gin: {_first_line(error)}; {_CURE}") from None


def parsed(text: str) -> list[Any]:
  """The statements in a text, by gin's own parser. Nothing is run or looked up.

  Raises:
    SyntaxError, ValueError: it is not in gin's language.
  """
  try:
    return list(config_parser.ConfigParser(io.StringIO(text), _Nothing()))
  except RecursionError as error:
    raise ValueError("it is nested too deep") from error


def _check(statements: Sequence[Any]) -> None:
  """Raises UserError if a statement includes a file or imports a module not allowed."""
  for statement in statements:
    if isinstance(statement, config_parser.IncludeStatement):
      raise UserError(f"gin: include works in a --gin_file only ({statement.filename})")
    if isinstance(statement, config_parser.ImportStatement):
      if statement.module.startswith("__gin__"):
        raise UserError("gin: names are registered by modules, not by dynamic_registration")
      check_allowed(statement.module)


class _Nothing(config_parser.ParserDelegate):
  """A gin parser's delegate that keeps references and macros as names."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return scoped_configurable_name

  def macro(self, macro_name):
    return macro_name


def _parse(statements: Sequence[str]) -> None:
  text = "\n".join(statements)
  try:
    _check(parsed(text))
    _replace_config(text)
  except UserError:
    raise
  except (ValueError, TypeError, SyntaxError, ImportError) as error:
    raise UserError(f"gin: {_first_line(error)}; {_CURE}") from None


def _replace_config(statements: str) -> None:
  gin.clear_config()
  gin.parse_config(statements)


def operative() -> str:
  """gin's operative config: the functions called within `bound` so far, with their values."""
  return gin.operative_config_str()


def _first_line(error: Exception) -> str:
  text = error.msg if isinstance(error, SyntaxError) else str(error)
  return (text.strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
