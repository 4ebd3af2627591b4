"""Callables by a short name, for `@name` on the command line.

Strata's own are in the table of runners/configs/allowed_names.py. Other packages add theirs
with `@referable`. Every allowed object also has a full name, `@my_package.module:Name(...)`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.configs import allowed_names
from runners.configs.allowed_names import IN_TREE

_registered: dict[str, Callable[..., Any]] = {}

F = TypeVar("F", bound=Callable[..., Any])


def referable(target: F) -> F:
  """Decorator: makes the class or function available as `@its_name` in a value."""
  register_reference(target.__name__, target)
  return target


def register_reference(name: str, target: Callable[..., Any]) -> None:
  """Makes `target` available as `@name`; UserError if the name has another meaning."""
  old = _registered.get(name)
  taken = name in IN_TREE or (old is not None and _identity(old) != _identity(target))
  if taken:
    raise UserError(f"@{name} already means {IN_TREE.get(name) or _identity(old)}; rename one")
  _registered[name] = target
  allowed_names.admit([_identity(target)])


def find_reference(name: str) -> Callable[..., Any]:
  """The callable called `@name`; UserError with the nearest names if there is none."""
  if name in _registered:
    return _registered[name]
  full_name = IN_TREE.get(name, name)
  if ":" not in full_name:
    names = [f"@{known}" for known in known_references()]
    raise UserError(
      f"there is no @{name}: {did_you_mean('@' + name, names)} (in full, @package.module:Name)"
    )
  target = allowed_names.find(full_name)
  if not callable(target):
    raise UserError(f"@{name} is a {type(target).__name__}, not a class or function")
  return target


def known_references() -> list[str]:
  """Every short name."""
  return [*IN_TREE, *_registered]


def _identity(target: Any) -> str:
  return f"{target.__module__}:{target.__qualname__}"
