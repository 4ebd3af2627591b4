"""Whether a value read from a file fits a field's annotation.

A config.json may hold anything. Values of a wrong type are refused when the file is read, so
that later code never meets them. In doubt the answer is yes. Ranges of numbers are checked
later, by runners/configs/ranges.py.
"""

import collections.abc
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

import fiddle as fdl

from runners.configs.fields import produced_type

_PLAIN = (bool, int, float, str, bytes, types.NoneType)
_DATA = (*_PLAIN, list, tuple, set, frozenset, dict)
_CALLABLES = (collections.abc.Callable, type)


def can_be(value: Any, annotation: Any) -> bool:
  """Whether a field with this annotation can hold `value`."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if annotation in (Any, object) or isinstance(annotation, typing.TypeVar | typing.ForwardRef):
    return True
  if isinstance(annotation, typing.NewType):
    return can_be(value, annotation.__supertype__)
  if origin is typing.Annotated:
    return can_be(value, arguments[0])
  if origin is typing.Literal:
    return any(value == choice and type(value) is type(choice) for choice in arguments)
  if origin in (typing.Union, types.UnionType):
    return any(can_be(value, member) for member in arguments)
  if isinstance(value, fdl.Buildable):
    return _can_give(value, origin or annotation)
  return _can_be_of(
    value, types.NoneType if annotation is None else origin or annotation, arguments
  )


def _can_be_of(value: Any, kind: Any, items: tuple[Any, ...]) -> bool:
  """`can_be` for a value that is no config node; `kind` is a class or a generic's origin."""
  if kind in _PLAIN:
    return type(value) is kind or (kind is float and type(value) is int)
  if kind in _CALLABLES:
    return callable(value)
  if not isinstance(kind, type):
    return True
  if issubclass(kind, Mapping):
    key, item = items if len(items) == 2 else (Any, Any)
    return isinstance(value, Mapping) and all(
      can_be(k, key) and can_be(v, item) for k, v in value.items()
    )
  if issubclass(kind, collections.abc.Iterable) and issubclass(list, kind) or kind is tuple:
    return isinstance(value, list | tuple) and _can_hold(value, items)
  if issubclass(kind, enum.Enum):
    return isinstance(value, kind)
  if isinstance(value, type | types.FunctionType):  # fits only a class of callables
    return "__call__" in vars(kind)
  if getattr(kind, "_is_protocol", False):
    return not isinstance(value, _DATA)
  return isinstance(value, kind) or not isinstance(value, _DATA)


def _can_hold(values: Any, items: tuple[Any, ...]) -> bool:
  """Whether elements fit the item types `items`, as of `tuple[int, str]` or `Sequence[int]`."""
  if len(items) > 1 and items[1] is not Ellipsis:
    return len(values) == len(items) and all(map(can_be, values, items))
  return all(can_be(value, items[0] if items else Any) for value in values)


def _can_give(node: fdl.Buildable, kind: Any) -> bool:
  """Whether building a config node can give a `kind`."""
  if not isinstance(node, fdl.Config):  # a Partial: builds into a function
    return kind in _CALLABLES or not isinstance(kind, type) or kind not in _DATA
  made = produced_type(fdl.get_callable(node))
  made = typing.get_origin(made) or made
  if not isinstance(kind, type) or not isinstance(made, type) or made is object:
    return True
  if kind in _CALLABLES or getattr(kind, "_is_protocol", False):
    return made not in _DATA
  return issubclass(made, kind) or issubclass(kind, made) or (kind is float and made is int)
