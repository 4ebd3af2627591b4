"""Parses the text of a value before its type is known: literals, bare words, @references.

3   1e-3   'text'   (1, 2)   {'a': None}     Python literals
bfloat16   /data/my file.txt                 a bare word: a string, an enum, a dtype
@adamw(learning_rate=1e-3)   @gelu           a registered callable, called or itself
"""

import ast
import dataclasses
import re
import warnings
from collections.abc import Iterable
from typing import Any

from layers.errors import UserError, short
from runners.configs.value_limits import check_plain, check_values, values_below


@dataclasses.dataclass(frozen=True)
class Word:
  """Text without quotes, whose meaning depends on the expected type."""

  text: str


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@name` (arguments None) or `@name(a=1)`; the arguments are not converted yet."""

  name: str
  arguments: dict[str, Any] | None
  text: str


@dataclasses.dataclass(frozen=True)
class FileText:
  """A string from a YAML or JSON file: a text, or a value that YAML cannot express.

  YAML reads `1e-3` as a string, and has no notation for `@adamw()`.
  """

  text: str


# A quoted string (left unchanged) or a reference; `user@host` is neither.
_REFERENCE = re.compile(
  r"""'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | (?<![\w.])@(?P<name>[^\W\d][\w.]*(?::[\w.]+)?)""",
  re.VERBOSE,
)


def parse_value(text: str) -> Any:
  """The value: literals as such, anything else as `Word` or `Reference`, in any containers.

  Raises:
    UserError: it is no value, or exceeds a limit of runners/configs/value_limits.py.
  """
  names: list[str] = []
  prefix = _STAND_IN
  while prefix in text:  # the user's own word
    prefix += "_"

  def stand_in(match: re.Match) -> str:
    if match["name"] is None:
      return match[0]
    names.append(match["name"])
    return f"{prefix}{len(names) - 1}"

  text = text.strip()
  check_plain(text)
  source = _REFERENCE.sub(stand_in, text)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Python's warnings about code, which this is not
      tree = ast.parse(source, mode="eval").body
      value = _Reader(source, prefix, names).read(tree)
  except (SyntaxError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    return _not_python(text, error)
  except TypeError as error:  # a list as a key
    raise UserError(f"the value {short(text)} cannot be read: {error}") from error
  except (RecursionError, MemoryError) as error:
    raise UserError(f"the value {short(text)} is nested too deep to be read") from error
  check_values(value, _below)
  return value


def parse_text(text: str) -> Any:
  """Like `parse_value`, for a string field: `[a],b` and `{a}` are words, not a list and a set.

  Other values, such as numbers, are parsed as usual, so that a wrong type is reported.
  """
  check_plain(text)
  if text.strip()[:1] in ("[", "{", "("):
    return Word(text.strip())
  value = parse_value(text)
  return Word(text.strip()) if isinstance(value, tuple) else value


def from_file(value: Any) -> Any:
  """A value from YAML or JSON, in the form that `parse_value` gives."""
  if isinstance(value, str):
    return FileText(value)
  if isinstance(value, list):
    return [from_file(item) for item in value]
  if isinstance(value, dict):
    return {key: from_file(item) for key, item in value.items()}
  return value


_STAND_IN = "_reference_"


def _below(value: Any) -> Iterable[Any]:
  """The values within a value; a plain one is checked."""
  if isinstance(value, Reference):
    return (value.arguments or {}).values()
  return values_below(value)


def _not_python(text: str, error: Exception) -> Word:
  """Text such as `/data/my file.txt` is a word; a broken list or call is an error."""
  if not text:
    raise UserError("the value is empty: write '' for an empty text, None for nothing")
  if text[0] in "@([{'\"":
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    raise UserError(
      f"the value {short(text)} cannot be read: {reason}; within brackets a text such as a path"
      " needs quotes"
    )
  return Word(text)


class _Reader:
  """Turns a syntax tree into values; nothing is evaluated."""

  def __init__(self, source: str, prefix: str, names: list[str]):
    self._lines = source.encode().splitlines(keepends=True)
    self._prefix = prefix  # of the stand-in words for references
    self._names = names

  def read(self, node: ast.expr) -> Any:
    match node:
      case ast.Constant(value=value) if value is not Ellipsis:
        return value
      case ast.UnaryOp(
        op=ast.USub() | ast.UAdd() as sign,
        operand=ast.Constant(value=int() | float() as number),
      ) if not isinstance(number, bool):
        return -number if isinstance(sign, ast.USub) else number
      case ast.Tuple(elts=items):
        return tuple(map(self.read, items))
      case ast.List(elts=items):
        return list(map(self.read, items))
      case ast.Set(elts=items):
        return {self.read(item) for item in items}
      case ast.Dict(keys=keys, values=values) if all(keys):
        return {self.read(k): self.read(v) for k, v in zip(keys, values, strict=True) if k}
      case ast.Name(id=name) if name.startswith(self._prefix):
        return Reference(self._name(name), None, self._text(node))
      case ast.Call(func=ast.Name(id=name)) if name.startswith(self._prefix):
        return self._call(node, self._name(name))
    return self._word(node)

  def _name(self, stand_in: str) -> str:
    return self._names[int(stand_in.removeprefix(self._prefix))]

  def _call(self, node: ast.Call, name: str) -> Reference:
    text = self._text(node)
    if node.args or any(keyword.arg is None for keyword in node.keywords):
      raise UserError(f"{short(text)}: arguments are given by name, like @{name}(name=value)")
    arguments = {str(keyword.arg): self.read(keyword.value) for keyword in node.keywords}
    return Reference(name, arguments, text)

  def _word(self, node: ast.expr) -> Word:
    text = self._text(node)
    parts = (part.id for part in ast.walk(node) if isinstance(part, ast.Name))
    if any(name.startswith(self._prefix) for name in parts):
      raise UserError(
        f"{short(text)}: a @reference stands alone or as an item; quote it if it is text"
      )
    return Word(text)

  def _text(self, node: ast.expr) -> str:
    """The user's text for this part of the value."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    lines = self._lines[first : last + 1]
    lines[-1] = lines[-1][: node.end_col_offset]
    lines[0] = lines[0][node.col_offset :]
    segment = b"".join(lines).decode()
    return re.sub(self._prefix + r"(\d+)", lambda m: f"@{self._names[int(m[1])]}", segment)
