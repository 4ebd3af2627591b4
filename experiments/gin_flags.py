"""`--gin_file`, `--gin_bindings`: gin for preprocessors of seqio Tasks, as T5X users have it.

Their statements become the field `gin` of the data that have one, and so a normal part of the
config: shown, compared, stored with the run, and part of a token store's identity. Files are
copied into it with their includes, so that a run can be repeated without them. Files come
before bindings, and both after all other overrides.
"""

import pathlib
from typing import Any

import fiddle as fdl
from fiddle import daglish

from layers.errors import UserError
from runners.configs.fields import field_of
from runners.configs.files import read_text
from runners.configs.tree import copy_config


def statements_of(verb: str, text: str) -> str:
  """The gin statements of an argument; UserError if they are not in gin's language."""
  if verb == "gin_bindings":
    if _includes(text, ""):
      raise UserError("include works in a --gin_file only")
    return text.strip()
  return _file_content(pathlib.Path(text), ())


def bind(config: fdl.Config, statements: str) -> fdl.Config:
  """A copy in which these statements are appended to every data's field `gin`.

  Evaluation data that take the field from the training data still do.
  """
  config = copy_config(config)
  train = config.train_data
  found = list(_configurable(train))
  for data in (config.eval_data or {}).values():
    is_like_train = isinstance(data, fdl.Buildable) and (
      fdl.get_callable(data) is fdl.get_callable(train)
    )
    found += [
      node for node in _configurable(data) if not is_like_train or "gin" in node.__arguments__
    ]
  if not found:
    raise UserError(
      "nothing in train_data or eval_data takes gin; it is for the preprocessors of seqio "
      "tasks: --set=train_data=@RegisteredTask(task='NAME', module='PACKAGE.MODULE')"
    )
  for node in found:
    # Not twice: the config of an earlier run may have them already.
    node.gin = (*(earlier for earlier in node.gin if earlier != statements), statements)
  return config


def _configurable(root: Any):
  """Every config node at or below `root` that has a field `gin`."""
  for node, _ in daglish.iterate(root):
    if isinstance(node, fdl.Buildable) and field_of(node, "gin") is not None:
      yield node


def _file_content(path: pathlib.Path, within: tuple[pathlib.Path, ...]) -> str:
  """The file's statements, with includes replaced by the included files."""
  if path in within:
    raise UserError(f"{path} includes itself")
  text = read_text(path)
  lines = text.splitlines()
  for number, included in _includes(text, str(path)):
    lines[number - 1] = _file_content(pathlib.Path(included), (*within, path))
  return "\n".join(lines).strip()


def _includes(text: str, source: str) -> list[tuple[int, str]]:
  """(line, file) of each `include`. Only parses the text, and runs nothing."""
  from gin import config_parser

  from input_pipelines.gin_bindings import parsed

  try:
    statements = parsed(text)
  except (SyntaxError, ValueError) as error:
    line = getattr(error, "lineno", None)
    place = f"{source}:{line}: " if source and line else f"{source}: " if source else ""
    reason = getattr(error, "msg", None) or str(error)
    raise UserError(f"{place}not in gin's language: {' '.join(reason.split())}") from None
  return [
    (statement.location.line_num, statement.filename)
    for statement in statements
    if isinstance(statement, config_parser.IncludeStatement)
  ]
