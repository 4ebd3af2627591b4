"""The fields of the class or function behind a config node: names, types and defaults."""

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import fiddle as fdl
from flax import linen as nn


class _Required:
  """The default of a field that has none."""

  def __repr__(self) -> str:
    return "<not set>"


REQUIRED = _Required()

# Metadata of a dataclass field that came later: see Field.
ONLY_IF_SET = {"shown": "if set"}

# linen adds these two to every module for its own use; nobody configures them.
_LINEN_FIELDS = ("parent", "name")


@dataclasses.dataclass(frozen=True)
class Field:
  """One argument of a callable; `annotation` is Any if it is missing or unreadable.

  A field that is shown `only_if_set` came later than configs that were printed without it; with
  its default, they print as they did.
  """

  name: str
  annotation: Any = Any
  default: Any = REQUIRED
  default_factory: Callable[[], Any] | None = None
  only_if_set: bool = False

  def default_value(self) -> Any:
    """A fresh default, or REQUIRED."""
    return self.default if self.default_factory is None else self.default_factory()


@functools.cache
def fields(target: Callable) -> Mapping[str, Field]:
  """The named fields of a dataclass, linen module, class or function, in signature order."""
  try:
    parameters = inspect.signature(target).parameters.values()
  except ValueError:  # builtins such as `dict` have no signature
    return {}
  hints = _type_hints(target)
  factories, younger = _default_factories(target), _only_if_set(target)
  hidden = _LINEN_FIELDS if _is_linen(target) else ()
  named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return {
    p.name: Field(
      p.name,
      hints.get(p.name, Any),
      REQUIRED if p.default is inspect.Parameter.empty else p.default,
      factories.get(p.name),
      p.name in younger,
    )
    for p in parameters
    if p.kind in named and p.name not in hidden
  }


@functools.cache
def accepts_any_name(target: Callable) -> bool:
  """Whether `target` takes **kwargs, so that a name not among its fields is no error."""
  try:
    parameters = inspect.signature(target).parameters.values()
  except ValueError:
    return True
  return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def produced_type(target: Callable) -> Any:
  """The type that `target` returns: the class itself, or a function's return annotation."""
  return target if isinstance(target, type) else _type_hints(target).get("return", Any)


def target_of(node: fdl.Buildable) -> Callable:
  """The class or function that a config node calls."""
  return fdl.get_callable(node)


def field_of(node: fdl.Buildable, name: str) -> Field | None:
  """The field called `name`, even if only **kwargs accepts it; None if there is none."""
  target = target_of(node)
  if name in (known := fields(target)):
    return known[name]
  return Field(name) if accepts_any_name(target) and name.isidentifier() else None


def value_of(node: fdl.Buildable, name: str) -> Any:
  """The value of a field: as set, else its default, else REQUIRED."""
  if name in node.__arguments__:
    return node.__arguments__[name]
  field = field_of(node, name)
  return REQUIRED if field is None else field.default_value()


def names_of(node: fdl.Buildable) -> list[str]:
  """Every field of a node in signature order, then arguments set through **kwargs.

  A field that is shown only if it is set is left out where it is not.
  """
  known = {
    name: field
    for name, field in fields(target_of(node)).items()
    if not field.only_if_set or name in node.__arguments__
  }
  hidden = _LINEN_FIELDS if _is_linen(target_of(node)) else ()
  extra = (name for name in node.__arguments__ if isinstance(name, str))
  return [*known, *(name for name in extra if name not in known and name not in hidden)]


def as_node(value: Any) -> Any:
  """A built dataclass instance (a default such as `Mesh()`) as the config that builds it.

  So its fields can be shown and set like any other. Everything else is returned unchanged.
  """
  if isinstance(value, fdl.Buildable | type) or not dataclasses.is_dataclass(value):
    return value
  node = fdl.Config(type(value))
  for name, field in fields(type(value)).items():
    held = getattr(value, name)
    if held is not field.default and held != field.default_value():
      setattr(node, name, held)
  return node


def _is_linen(target: Callable) -> bool:
  return isinstance(target, type) and issubclass(target, nn.Module)


def _default_factories(target: Callable) -> dict[str, Callable[[], Any]]:
  if not dataclasses.is_dataclass(target):
    return {}
  return {
    field.name: field.default_factory
    for field in dataclasses.fields(target)
    if field.default_factory is not dataclasses.MISSING
  }


def _only_if_set(target: Callable) -> set[str]:
  if not dataclasses.is_dataclass(target):
    return set()
  return {
    field.name
    for field in dataclasses.fields(target)
    if ONLY_IF_SET.items() <= field.metadata.items()
  }


def _type_hints(target: Callable) -> dict[str, Any]:
  """Name -> resolved annotation; one that cannot be resolved becomes Any."""
  if target is object.__init__:  # a class without fields; it has neither hints nor a module
    return {}
  if isinstance(target, type) and not dataclasses.is_dataclass(target):
    return _type_hints(target.__init__)
  if isinstance(target, type):
    holders = [(cls, vars(cls).get("__annotations__", {})) for cls in reversed(target.__mro__)]
  else:
    function = inspect.unwrap(target)
    holders = [(function, getattr(function, "__annotations__", {}))]
  hints = {}
  for holder, annotations in holders:
    namespace = vars(sys.modules.get(holder.__module__, types.SimpleNamespace()))
    for name, annotation in annotations.items():
      hints[name] = _resolve(name, annotation, namespace)
  return hints


def _resolve(name: str, annotation: Any, namespace: dict[str, Any]) -> Any:
  one = types.SimpleNamespace(__annotations__={name: annotation})
  try:
    return typing.get_type_hints(one, globalns=namespace, include_extras=True)[name]
  except (NameError, AttributeError, TypeError, SyntaxError):
    return Any
