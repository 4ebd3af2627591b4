"""Reads a value back from the text that runners/configs/tree.py writes for it.

  0.95   (1, 2)   {'a': None}   inf          literals, and numbers that Python cannot write
  @layers.masks:causal_mask                  a function or class that is itself the value
  @layers.normalization:RMSNorm()            a config node; its fields have their own lines
  Color.RED                                  a member of an enum that the field's type names

Names are looked up in runners/configs/allowed_names.py. Nothing is called.
"""

import ast
import enum
import math
import re
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import fiddle as fdl

from layers.errors import UserError, short
from runners.configs import allowed_names
from runners.configs.value_limits import MAX_DEFAULT_TEXT, check_values

# A quoted string, which stays as it is, or an object's name.
_NAME = re.compile(
  r"""'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | @(?P<name>[\w.]+:[\w.]+)(?P<call>\(\))?""",
  re.VERBOSE,
)
_NUMBERS = {"inf": math.inf, "nan": math.nan}


def read_written(text: str, annotation: Any = Any) -> Any:
  """The value that prints as `text`, for a field of this type.

  Raises:
    UserError: the text is of another kind (as arrays and most objects print), names an object
      that no config may name, or exceeds a limit in runners/configs/value_limits.py.
  """
  if len(text) > MAX_DEFAULT_TEXT:
    raise UserError(f"the value {short(text)} has more than {MAX_DEFAULT_TEXT:,} characters")
  found: dict[str, re.Match] = {}  # word that replaces the name in the text -> match
  stand_in = "_name_"
  while stand_in in text:
    stand_in += "_"

  def replaced(match: re.Match) -> str:
    if match["name"] is None:
      return match[0]
    word = f"{stand_in}{len(found)}_"
    found[word] = match
    return f" {word} "

  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Python's syntax warnings: the text is no program
      tree = ast.parse(_NAME.sub(replaced, text).strip(), mode="eval").body
    value = _Reader(found, annotation).read(tree)
  except UserError:
    raise
  except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
    raise UserError(f"the value {short(text)} cannot be read back") from error
  check_values(value)
  return value


class _Reader:
  """Turns a syntax tree into values; nothing is evaluated."""

  def __init__(self, found: Mapping[str, re.Match], annotation: Any):
    self._found = found
    self._enums = {kind.__name__: kind for kind in _enums_in(annotation)}

  def read(self, node: ast.expr) -> Any:
    match node:
      case ast.Constant(value=value) if value is not Ellipsis:
        return value
      case ast.UnaryOp(op=ast.USub(), operand=operand):
        return -self._number(operand)
      case ast.Tuple(elts=items):
        return tuple(map(self.read, items))
      case ast.List(elts=items):
        return list(map(self.read, items))
      case ast.Set(elts=items):
        return set(map(self.read, items))
      case ast.Dict(keys=keys, values=values) if all(keys):
        return {self.read(k): self.read(v) for k, v in zip(keys, values, strict=True) if k}
      case ast.Name(id=name) if name in self._found:
        return self._object(self._found[name])
      case ast.Name(id=name) if name in _NUMBERS:
        return _NUMBERS[name]
      case ast.Attribute(value=ast.Name(id=kind), attr=member) if kind in self._enums:
        if member in self._enums[kind].__members__:
          return self._enums[kind][member]
    raise ValueError(f"a {type(node).__name__} is no value")

  def _number(self, node: ast.expr) -> int | float:
    value = self.read(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise ValueError("only a number has a sign")
    return value

  def _object(self, name: re.Match) -> Any:
    value = allowed_names.find(name["name"])
    return fdl.Config(value) if name["call"] else value


def _enums_in(annotation: Any) -> Iterator[type[enum.Enum]]:
  """The enums in a type: itself, or among its arguments, as in `Color | None`."""
  if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
    yield annotation
  for inner in typing.get_args(annotation):
    yield from _enums_in(inner)
