"""Finds the class of an experiment that set a field: `gpt2.Nano (experiments/gpt2.py:33)`."""

import ast
import inspect
import os
import pathlib
import textwrap
import types
from collections.abc import Iterator

from fiddle import history

from runners.configs.tree import format_value


def who_set(location: history.Location, name: str, value: str, experiment: type) -> str:
  """The class whose method set the field `name`, with the line; or the function.

  A family's `num_steps=self.num_steps` only passes a value on. Then the result is the class
  that defines an attribute of this name, if it prints as `value`.
  """
  classes = experiment.__mro__
  depth = next((i for i, cls in enumerate(classes) if _contains(cls, location)), None)
  where = _where(location.filename, location.line_number)
  if depth is None:
    return f"{location.function_name} ({where})"
  owner = next((cls for cls in classes[: depth + 1] if name in vars(cls)), None)
  if owner is not None and format_value(vars(owner)[name]) == value:
    return _attribute_of(owner, name)
  return f"{_name(classes[depth])} ({where})"


def _attribute_of(owner: type, name: str) -> str:
  try:
    lines, first = inspect.getsourcelines(owner)
    filename = inspect.getsourcefile(owner) or ""
  except (OSError, TypeError):  # typed at a prompt
    return _name(owner)
  return f"{_name(owner)} ({_where(filename, first + _offset(lines, name))})"


def _offset(lines: list[str], name: str) -> int:
  """The number of lines between the start of a class and the attribute's assignment."""
  (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
  assert isinstance(definition, ast.ClassDef)
  for statement in definition.body:
    if isinstance(statement, ast.Assign | ast.AnnAssign):
      targets = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
      if any(node.id == name and isinstance(node.ctx, ast.Store) for node in targets):
        return statement.lineno - 1
  return definition.lineno - 1


def _contains(cls: type, location: history.Location) -> bool:
  return any(
    code.co_filename == location.filename and location.line_number in _lines(code)
    for code in _codes(cls)
  )


def _codes(cls: type) -> Iterator[types.CodeType]:
  for member in vars(cls).values():
    function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
    if isinstance(function, types.FunctionType):
      yield function.__code__


def _lines(code: types.CodeType) -> range:
  last = max((line for _, _, line in code.co_lines() if line), default=code.co_firstlineno)
  inner = [_lines(c).stop - 1 for c in code.co_consts if isinstance(c, types.CodeType)]
  return range(code.co_firstlineno, max([last, *inner]) + 1)


def _name(cls: type) -> str:
  return f"{cls.__module__.rsplit('.', 1)[-1]}.{cls.__qualname__}"


def _where(filename: str, line: int) -> str:
  """`file:line`, relative to Strata's folder or the current one if it is inside."""
  path = pathlib.Path(filename)
  for root in (pathlib.Path(__file__).parent.parent, pathlib.Path(os.getcwd())):
    if path.is_relative_to(root):
      return f"{path.relative_to(root)}:{line}"
  return f"{filename}:{line}"
