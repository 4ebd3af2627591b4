"""Checks the numbers in a config against the ranges in their fields' types.

Overrides are checked when they are parsed. This check is for numbers that Python code, a
fiddler or a config.json put into a config.
"""

import collections.abc
import numbers
import types
import typing
from collections.abc import Iterator
from typing import Any

import fiddle as fdl
from fiddle import daglish

from layers.errors import UserError
from layers.ranges import Range
from runners.configs.fields import field_of, names_of, value_of
from runners.configs.tree import Path, path_text, walk

_UNIONS = (typing.Union, types.UnionType)


def check_ranges(config: fdl.Config) -> None:
  """Raises UserError for the first number outside the range of its field, with its path."""
  for path, node, _ in [((), config, None), *walk(config)]:
    if isinstance(node, fdl.Buildable):
      for name in names_of(node):
        field = field_of(node, name)
        annotation = Any if field is None else field.annotation
        _check((*path, daglish.Attr(name)), value_of(node, name), annotation)


def _check(path: Path, value: Any, annotation: Any) -> None:
  """Checks the value itself, or each element of a container of numbers."""
  if isinstance(value, numbers.Real) and not isinstance(value, bool):
    if (allowed := _allowed(value, annotation)) is not None:
      raise UserError(f"{path_text(path)}={value} must be {allowed}")
  elif isinstance(value, collections.abc.Mapping):
    for key, item in value.items():
      _check((*path, daglish.Key(key)), item, _of_elements(annotation))
  elif isinstance(value, list | tuple):
    for index, item in enumerate(value):
      _check((*path, daglish.Index(index)), item, _of_elements(annotation))


def _allowed(value: Any, annotation: Any) -> str | None:
  """The annotation's demand, as text, on a number that does not fit; None if it fits.

  An annotation without ranges accepts any number.
  """
  members = _members(annotation)
  if any(
    value in typing.get_args(m) for m in members if typing.get_origin(m) is typing.Literal
  ):
    return None  # a literal such as -1 beside a range of positive numbers
  known = [(kind, ranges) for member in members for kind, ranges in _number_types(member)]
  if not any(ranges for _, ranges in known):
    return None
  is_whole = isinstance(value, numbers.Integral)
  fitting = [(kind, ranges) for kind, ranges in known if kind is float or is_whole]
  if not fitting:
    return "a whole number"
  if any(all(one.holds(value) for one in ranges) for _, ranges in fitting):
    return None
  exact = [(kind, ranges) for kind, ranges in fitting if (kind is int) == is_whole] or fitting
  return " or ".join(str(one) for _, ranges in exact for one in ranges)


def _number_types(member: Any) -> Iterator[tuple[type, list[Range]]]:
  origin, arguments = typing.get_origin(member), typing.get_args(member)
  if origin is typing.Annotated:
    if arguments[0] in (int, float):
      yield arguments[0], [extra for extra in arguments[1:] if isinstance(extra, Range)]
  elif member in (int, float):
    yield member, []


def _members(annotation: Any) -> tuple[Any, ...]:
  is_union = typing.get_origin(annotation) in _UNIONS
  return typing.get_args(annotation) if is_union else (annotation,)


def _of_elements(annotation: Any) -> Any:
  """The element type of a mapping or sequence; Any if it is not given."""
  for member in _members(annotation):
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
      return arguments[-1] if arguments and arguments[-1] is not Ellipsis else arguments[0]
  return Any
