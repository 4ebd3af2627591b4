"""`--gin_file`, `--gin_bindings`: gin for preprocessors of seqio Tasks, as T5X users have it.

What they say becomes the field `gin` of the data that have one, hence a part of the config as
any other: shown, compared, stored with the run, and part of what token stores are known by.
Files are read into it whole, with the files that they include, so that a run can be repeated
when they are gone. Files come before bindings, and both after all other overrides.
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
  """What an argument says, in gin's language; UserError where it is not in it."""
  if verb == "gin_bindings":
    if _includes(text, ""):
      raise UserError("include works in a --gin_file only")
    return text.strip()
  return _file_content(pathlib.Path(text), ())


def bind(config: fdl.Config, statements: str) -> fdl.Config:
  """A copy in which data that have a field `gin` have these statements last.

  Evaluation data that take theirs from the training data are left to do so.
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
    # Not twice: the config may be that of a run that had them.
    node.gin = (*(earlier for earlier in node.gin if earlier != statements), statements)
  return config


def _configurable(root: Any):
  """Every config node at or below `root` that has a field `gin`."""
  for node, _ in daglish.iterate(root):
    if isinstance(node, fdl.Buildable) and field_of(node, "gin") is not None:
      yield node


def _file_content(path: pathlib.Path, within: tuple[pathlib.Path, ...]) -> str:
  """The file's statements, with those that it includes in their places."""
  if path in within:
    raise UserError(f"{path} includes itself")
  text = read_text(path)
  lines = text.splitlines()
  for number, included in _includes(text, str(path)):
    lines[number - 1] = _file_content(pathlib.Path(included), (*within, path))
  return "\n".join(lines).strip()


def _includes(text: str, source: str) -> list[tuple[int, str]]:
  """(line, file) of each `include`. Reads the syntax of it all, and runs nothing."""
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
