"""Changes one place in a config: finds it by path, converts the value to its type, sets it.

Errors name the neighbouring fields, and other places in the config with the same name.
"""

import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import fiddle as fdl
from fiddle import daglish

from experiments.replacement import hand_on
from experiments.slips import field_paths
from experiments.values import typed
from layers.errors import UserError
from layers.suggestions import did_you_mean, nearest
from runners.configs.fields import (
  REQUIRED,
  as_node,
  field_of,
  fields,
  names_of,
  target_of,
  value_of,
)
from runners.configs.tree import Path, Step, flatten, format_value, path_text


class Place(NamedTuple):
  """The place a path leads to: canonical path (indices from the front), type and value."""

  path: Path
  annotation: Any
  value: Any  # REQUIRED if a field has neither a value nor a default


def find(config: fdl.Config, path: Path, *, new_key: bool = False) -> Place:
  """Walks `path` from the root. With `new_key` the last step may be a key not yet in a dict."""
  place = Place((), Any, config)
  for depth, step in enumerate(path):
    if isinstance(step, daglish.Attr) and not _is_key(step, place.value):
      place = _into_field(config, place, step)
    elif isinstance(place.value, Mapping):
      place = _into_key(place, step, may_be_new=new_key and depth == len(path) - 1)
    elif isinstance(place.value, list | tuple):
      place = _into_item(place, step)
    else:
      raise UserError(f"{_is_what(place)}, which cannot be indexed with {step.code}")
  return place


def set_value(config: fdl.Config, path: Path, value: Any) -> Path:
  """Converts `value` to the type of its place and sets it; returns the canonical path.

  A new value takes over the learning rate and similar fields of the old: see replacement.py.
  """
  place = find(config, path, new_key=True)
  current = None if place.value is REQUIRED else place.value
  new = typed(value, place.annotation, current)
  hand_on(current, new)
  _put(config, place.path, new)
  return place.path


def append_value(config: fdl.Config, path: Path, value: Any) -> Path:
  """Appends to a list or tuple: one element, or the elements of a list or tuple."""
  place = find(config, path)
  current = place.value
  if not isinstance(current, list | tuple):
    raise UserError(f"{_is_what(place)}; += appends to a list or tuple, use = to replace it")
  element = _inner_annotation(place.annotation, daglish.Index(0))
  added = [value] if _is_one_element(value, element, current) else value
  added = [typed(item, element) for item in added]
  _put(config, place.path, type(current)([*current, *added]))
  return place.path


def unset(config: fdl.Config, path: Path) -> Path:
  """Restores a field's default, or removes an element of a list, tuple or dict."""
  place = find(config, path)
  *above, last = place.path
  owner = find(config, tuple(above))
  if isinstance(last, daglish.Attr):
    _unset_field(owner, last.name)
  elif isinstance(last, daglish.Index):
    kept = [item for index, item in enumerate(owner.value) if index != last.index]
    _put(config, owner.path, type(owner.value)(kept))
  else:
    kept = {key: item for key, item in owner.value.items() if key != last.key}
    _put(config, owner.path, kept)
  return place.path


def _unset_field(owner: Place, name: str) -> None:
  node = owner.value
  if not isinstance(node, fdl.Buildable) or name not in node.__arguments__:
    return  # it has its default already
  field = fields(target_of(node)).get(name)
  if field is not None and field.default_value() is REQUIRED:
    where = path_text((*owner.path, daglish.Attr(name)))
    raise UserError(
      f"{where} cannot be unset: {_class_name(node)} gives {name} no default; set it instead"
    )
  delattr(node, name)


def _put(node: Any, path: Path, value: Any) -> Any:
  """`node` with `value` at `path`: config nodes change in place, containers are copied."""
  if not path:
    return value
  step, *rest = path
  node = as_node(node)
  if isinstance(step, daglish.Attr):
    child = value if not rest else _put(value_of(node, step.name), tuple(rest), value)
    if step.name not in node.__arguments__ or node.__arguments__[step.name] is not child:
      setattr(node, step.name, child)
    return node
  if isinstance(step, daglish.Key):
    child = value if not rest else _put(node[step.key], tuple(rest), value)
    return {**node, step.key: child}
  items = list(node)
  items[step.index] = value if not rest else _put(items[step.index], tuple(rest), value)
  return type(node)(items)


def _is_one_element(value: Any, element: Any, current: list | tuple) -> bool:
  """`sharding+=('heads', 'tensor')` adds one pair; `callbacks+=[@a(), @b()]` adds two.

  The element type decides; if it is unknown, the existing elements do.
  """
  if not isinstance(value, list | tuple):
    return True
  if element is not Any:
    try:
      typed(value, element)
      return True
    except UserError:
      return False
  rows = bool(current) and all(isinstance(item, list | tuple) for item in current)
  return rows and not all(isinstance(item, list | tuple) for item in value)


def _into_field(config: fdl.Config, place: Place, step: daglish.Attr) -> Place:
  node = as_node(place.value)
  path = (*place.path, step)
  if not isinstance(node, fdl.Buildable):
    raise UserError(_nothing_below(config, place, step.name))
  field = field_of(node, step.name)
  if field is None:
    raise UserError(_no_such_field(config, node, place.path, step.name))
  return Place(path, field.annotation, value_of(node, step.name))


def _into_item(place: Place, step: Step) -> Place:
  size = len(place.value)
  where = path_text(place.path)
  if not isinstance(step, daglish.Index):
    raise UserError(f"{where} is a list: index it with a number, like {where}[0]")
  if not -size <= step.index < size:
    has = f"has {size} items, 0 to {size - 1}" if size else "is empty"
    raise UserError(f"there is no {where}{step.code}: {where} {has}; add with {where}+=VALUE")
  step = daglish.Index(step.index % size)
  inner = _inner_annotation(place.annotation, step)
  return Place((*place.path, step), inner, place.value[step.index])


def _is_key(step: daglish.Attr, value: Any) -> bool:
  """A dict has no fields, so `eval_data.validation` can only mean its entry of that name."""
  return isinstance(value, Mapping) and step.name in value


def _into_key(place: Place, step: Step, *, may_be_new: bool) -> Place:
  key = next(getattr(step, name) for name in ("key", "index", "name") if hasattr(step, name))
  inner = _inner_annotation(place.annotation, daglish.Key(key))
  if key not in place.value and not may_be_new:
    names = [f"{path_text(place.path)}[{name!r}]" for name in place.value]
    wanted = f"{path_text(place.path)}[{key!r}]"
    raise UserError(f"there is no {wanted}: {did_you_mean(wanted, names)}")
  return Place((*place.path, daglish.Key(key)), inner, place.value.get(key, REQUIRED))


def _inner_annotation(annotation: Any, step: Step) -> Any:
  """The type of an element of a container type; Any if it is not given."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    inner = (_inner_annotation(member, step) for member in arguments)
    return next((found for found in inner if found is not Any), Any)
  if not arguments or origin is None or origin is typing.Literal:
    return Any
  if isinstance(step, daglish.Key):
    return arguments[1] if len(arguments) == 2 else Any
  if origin is tuple and arguments[-1] is not Ellipsis and isinstance(step, daglish.Index):
    return arguments[step.index] if step.index < len(arguments) else Any
  return arguments[0] if issubclass(origin, typing.Iterable) else Any


def _no_such_field(config: fdl.Config, node: fdl.Buildable, path: Path, name: str) -> str:
  """The error for an unknown field, with similar siblings and other paths with its name."""
  prefix = f"{path_text(path)}." if path else ""
  siblings = names_of(node)
  close = [f"{prefix}{sibling}" for sibling in nearest(name, siblings, count=3)]
  close += field_paths(name, flatten(config))
  close = close or [f"{prefix}{sibling}" for sibling in nearest(name, siblings, 2, 0.5)]
  close = close or _elsewhere(config, name)
  hint = f"did you mean {' or '.join(close[:4])}?" if close else did_you_mean(name, siblings)
  return f"{_class_name(node)} has no field {name!r}: {hint}"


def _elsewhere(config: fdl.Config, name: str) -> list[str]:
  """Paths that end in this field name, or else in the nearest one."""
  by_name = _paths_by_name(config)
  close = [name] if name in by_name else nearest(name, by_name, count=1)
  return [path for known in close for path in by_name[known]]


def _paths_by_name(config: fdl.Config) -> dict[str, list[str]]:
  """Field name -> the two shortest paths that end in it."""
  by_name: dict[str, list[str]] = {}
  for path in sorted(flatten(config), key=lambda path: path.count(".")):
    by_name.setdefault(path.rpartition(".")[2], []).append(path)
  return {name: paths[:2] for name, paths in by_name.items()}


def _nothing_below(config: fdl.Config, place: Place, name: str) -> str:
  where = path_text(place.path)
  if isinstance(place.value, Mapping):
    entries = [f"{where}[{key!r}]" for key in place.value]
    cure = did_you_mean(f"{where}[{name!r}]", entries)
    return f"{where} is a dict without {name!r}: {cure} (a new entry is {where}[{name!r}])"
  if isinstance(place.value, list | tuple):
    return f"{where} is a list: name the element, like {where}[0].{name}"
  what = f"{_is_what(place)}, so it has no field {name!r}"
  if place.value is None or place.value is REQUIRED:
    return f"{what}; first set it whole, {where}=@name({name}=...)"
  found = _elsewhere(config, name)
  return f"{what}{f'; did you mean {found[0]}?' if found else ''}"


def _is_what(place: Place) -> str:
  where = path_text(place.path) or "the root"
  return f"{where} is {'not set' if place.value is REQUIRED else format_value(place.value)}"


def _class_name(node: fdl.Buildable) -> str:
  return getattr(target_of(node), "__qualname__", str(target_of(node)))
