"""A config read as a flat list: every field with its path and its value as stable text.

Values are printed in the syntax of the command line: a nested config is `@module:Name()`; a
function or class as a value is `@module:name`. No memory address is printed, so equal configs
print equally.
"""

import copy
import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import fiddle as fdl
import numpy as np
from fiddle import daglish

from runners.configs.fields import REQUIRED, as_node, names_of, target_of, value_of
from runners.configs.import_by_name import public_name

Step = daglish.Attr | daglish.Index | daglish.Key
Path = tuple[Step, ...]


def path_text(path: Path) -> str:
  """A path as users write it, such as `model.layers[0].size`."""
  return daglish.path_str(path).removeprefix(".")


def children(value: Any) -> list[tuple[Step, Any]]:
  """(step, child) for everything directly below a config node, a list, a tuple or a dict."""
  if isinstance(value, fdl.Buildable):
    return [(daglish.Attr(name), value_of(value, name)) for name in names_of(value)]
  if isinstance(value, list | tuple):
    return [(daglish.Index(index), child) for index, child in enumerate(value)]
  if isinstance(value, Mapping):
    return [(daglish.Key(key), child) for key, child in value.items()]
  return []


def walk(
  config: Any, *, expand_shared: bool = False
) -> Iterator[tuple[Path, Any, Path | None]]:
  """Every (path, value, first path) below the root, a config node before its contents.

  A container is opened only if it holds a config node. `first path` is the first place of a
  node that occurs again here, else None; such a node is opened again only with `expand_shared`.
  """
  met: dict[int, tuple[Path, Any]] = {}  # holds the nodes, so that no id is used twice

  def visit(path: Path, value: Any) -> Iterator[tuple[Path, Any, Path | None]]:
    node = as_node(value)
    first = met[id(node)][0] if id(node) in met else None
    if isinstance(node, fdl.Buildable):
      met.setdefault(id(node), (path, node))
    if path and (isinstance(node, fdl.Buildable) or not _holds_nodes(node)):
      yield path, node, first
    if _holds_nodes(node) and (first is None or expand_shared):
      for step, child in children(node):
        yield from visit((*path, step), child)

  yield from visit((), config)


def flatten(config: Any, *, expand_shared: bool = False) -> dict[str, str]:
  """`{path: value as text}` for every field, defaults included, in signature order."""
  return {
    path_text(path): f"<same as {path_text(first)}>"
    if first is not None and not expand_shared
    else format_value(value)
    for path, value, first in walk(config, expand_shared=expand_shared)
  }


def format_value(value: Any) -> str:
  """A value as stable text, in override syntax if that can express it."""
  node = as_node(value)
  if isinstance(node, fdl.Buildable):
    call = f"@{public_name(target_of(node))}()"
    return call if isinstance(node, fdl.Config) else f"{type(node).__name__}({call})"
  if value is REQUIRED:
    return repr(value)
  if isinstance(value, enum.Enum):
    return f"{type(value).__name__}.{value.name}"
  if isinstance(value, list | tuple | set | frozenset | Mapping):
    return _format_container(value)
  if isinstance(value, functools.partial):
    bound = [*map(format_value, value.args)]
    bound += [f"{name}={format_value(arg)}" for name, arg in value.keywords.items()]
    return f"functools.partial({', '.join([format_value(value.func), *bound])})"
  if callable(value) and hasattr(value, "__qualname__"):
    return f"@{public_name(value)}"
  if isinstance(value, np.dtype):
    return repr(value.name)
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:12]
    return f"<array {array.dtype}{list(array.shape)} {digest}>"
  text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
  return text if text.isprintable() else text.encode("unicode_escape").decode()


def copy_config(config: fdl.Config) -> fdl.Config:
  """A deep copy that shares its callables with the original.

  Plain deepcopy would clone jax's function objects, such as jax.nn.relu, and a clone cannot be
  imported by name.
  """
  return copy.deepcopy(config, {id(value): value for value in callables_in(config)})


def callables_in(value: Any) -> Iterator[Any]:
  """Every function, class or callable object that is a value somewhere in a config."""
  for _, child in children(value):
    if children(child) or isinstance(child, fdl.Buildable):
      yield from callables_in(child)
    elif callable(child) and hasattr(child, "__qualname__"):
      yield child


def nodes_at(config: Any) -> dict[int, list[str]]:
  """id(config node) -> all its paths; more than one means that the node is shared."""
  paths: dict[int, list[str]] = {}
  for path, value, _ in walk(config, expand_shared=True):
    if isinstance(value, fdl.Buildable):
      paths.setdefault(id(value), []).append(path_text(path))
  return paths


def _holds_nodes(value: Any) -> bool:
  if isinstance(value, fdl.Buildable):
    return True
  if isinstance(value, list | tuple | Mapping):
    return any(
      _holds_nodes(child) or dataclasses.is_dataclass(child) and not isinstance(child, type)
      for _, child in children(value)
    )
  return False


def _format_container(value: Any) -> str:
  if isinstance(value, Mapping):
    inner = (f"{format_value(k)}: {format_value(v)}" for k, v in value.items())
    return f"{{{', '.join(inner)}}}"
  if isinstance(value, set | frozenset):
    return f"{{{', '.join(sorted(map(format_value, value)))}}}"
  inner = ", ".join(map(format_value, value))
  if isinstance(value, list):
    return f"[{inner}]"
  return f"({inner},)" if len(value) == 1 else f"({inner})"
