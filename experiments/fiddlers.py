"""Fiddlers: named functions `(config, **arguments)` that make a change larger than one field.

  @fiddler
  def tiny(config, width: int = 64):
    config.model.width = width

is applied with `--fiddler=tiny` or `--fiddler=tiny(width=32)`. It changes its config in place,
or returns another.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import fiddle as fdl

from experiments.value_syntax import Reference, parse_value
from experiments.values import typed
from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.configs.allowed_names import find_function
from runners.configs.fields import REQUIRED, fields

_fiddlers: dict[str, Callable[..., Any]] = {}

F = TypeVar("F", bound=Callable[..., Any])


def fiddler(function: F) -> F:
  """Decorator: registers a fiddler under the function's name."""
  name = function.__name__
  old = _fiddlers.get(name)
  if old and (old.__module__, old.__qualname__) != (function.__module__, function.__qualname__):
    raise UserError(
      f"two fiddlers are called {name!r}, in {old.__module__} and in "
      f"{function.__module__}; rename one"
    )
  _fiddlers[name] = function
  return function


def apply_fiddler(config: fdl.Config, call: str) -> fdl.Config:
  """Applies `NAME(ARGUMENTS)`, a registered fiddler or `package.module:name`."""
  reference = parse_value(f"@{call.strip().removeprefix('@')}")
  if not isinstance(reference, Reference):
    raise UserError(f"{call!r} is no fiddler: write NAME or NAME(argument=value)")
  function = _find(reference.name)
  changed = function(config, **_arguments(function, reference))
  if changed is None:
    return config
  if not isinstance(changed, fdl.Config):
    raise UserError(
      f"fiddler {reference.name} returned a {type(changed).__name__}, not a config"
    )
  return changed


def _find(name: str) -> Callable[..., Any]:
  if ":" in name:
    return find_function(name)
  if name not in _fiddlers:
    raise UserError(
      f"there is no fiddler {name!r}: {did_you_mean(name, _fiddlers)}"
      " (load the module that registers it with --load, or write package.module:name)"
    )
  return _fiddlers[name]


def _arguments(function: Callable[..., Any], reference: Reference) -> dict[str, Any]:
  if not fields(function):
    raise UserError(f"{reference.name} takes no config, so it is no fiddler")
  _, *names = fields(function)  # the first is the config
  known = {name: fields(function)[name] for name in names}
  given = reference.arguments or {}
  for name in given:
    if name not in known:
      raise UserError(
        f"fiddler {reference.name} has no argument {name!r}: {did_you_mean(name, known)}"
      )
  for name, field in known.items():
    if name not in given and field.default_value() is REQUIRED:
      raise UserError(
        f"fiddler {reference.name} needs {name}: write {reference.name}({name}=VALUE)"
      )
  typed_arguments = {}
  for name, value in given.items():
    try:
      typed_arguments[name] = typed(value, known[name].annotation, known[name].default)
    except UserError as error:
      raise UserError(f"fiddler {reference.name}, {name}: {error}") from error
  return typed_arguments
