"""Reads Fiddle's JSON form of a config without calling any object that it names.

Fiddle's own reader imports every name, and rebuilds a NamedTuple by calling whatever its class
is said to be. This reader knows the few forms in a config, takes names from
runners/configs/allowed_names.py, and refuses everything else. Named objects are called only
when the config is built.

  {"root": node, "objects": {key: node}}
  3, "text", {"type": "leaf", "value": 3}                    plain values
  {"type": "ref", "key": "adamw_1"}                          an object that may be shared
  {"type": "pyref", "module": "optax", "name": "adam"}       a class, function, enum member
  {"type": PYREF, "items": [["", node]], "metadata": node}   a container or a config node
"""

from collections.abc import Iterator, Mapping
from typing import Any

import fiddle as fdl
from fiddle._src.config import BuildableTraverserMetadata

from runners.configs import allowed_names
from runners.configs.value_limits import MAX_DEPTH, check_plain, check_values

_SEQUENCES = {f"builtins:{kind.__name__}": kind for kind in (list, tuple, set, frozenset)}
_NODES = {
  f"{kind.__module__}:{kind.__name__}": kind
  for kind in (fdl.Config, fdl.Partial, fdl.ArgFactory)
}
_TARGET = "fiddle._src.config:BuildableTraverserMetadata"
_FORMS = (*_SEQUENCES, *_NODES, _TARGET, "builtins:dict", "builtins:bytes")


class NotFiddles(ValueError):
  """The JSON is not Fiddle's form of a config; the message says why."""


def names_in(stored: Any) -> list[str]:
  """Every `module:Name` in the JSON, each once."""
  found: dict[str, None] = {}
  waiting = [stored]
  while waiting:
    node = waiting.pop()
    if isinstance(node, dict):
      if node.get("type") == "pyref":
        found[_name(node)] = None
      waiting += node.values()
    elif isinstance(node, list):
      waiting += node
  return [name for name in found if name not in _FORMS]


def read(stored: Any) -> Any:
  """The config, or other value, that the JSON holds.

  Raises:
    NotFiddles: it has another form.
    UserError: a name is not allowed or not found, or a limit is exceeded.
  """
  document = _fields(stored, "root", "objects")
  config = _Reader(_typed(document["objects"], dict)).value(document["root"])
  check_values(config)
  return config


class _Reader:
  """Turns nodes into values; a node that several refer to becomes one shared value."""

  def __init__(self, objects: Mapping[str, Any]):
    self._objects = objects
    self._read: dict[str, Any] = {}
    self._depth = 0

  def value(self, node: Any) -> Any:
    if not isinstance(node, dict | list):
      check_plain(node)
      return node
    self._depth += 1
    if self._depth > 2 * MAX_DEPTH + 4:  # an object takes two: a reference and its node
      raise NotFiddles("its objects are nested too deep, or hold themselves")
    try:
      return self._of_kind(_typed(node, dict))
    finally:
      self._depth -= 1

  def _of_kind(self, node: Mapping[str, Any]) -> Any:
    match node.get("type"):
      case "leaf":
        return self._leaf(node)
      case "ref":
        return self._referred(_typed(_fields(node, "key")["key"], str))
      case "pyref":
        return allowed_names.find(_name(node))
      case dict() as kind:
        return self._object(_name(kind), node)
    raise NotFiddles(f"a node is of no known type ({sorted(map(str, node))[:5]})")

  def _leaf(self, node: Mapping[str, Any]) -> Any:
    value = _fields(node, "value")["value"]
    if isinstance(value, dict | list):
      raise NotFiddles("a leaf is no plain value")
    check_plain(value)
    return value

  def _referred(self, key: str) -> Any:
    if key not in self._read:
      if key not in self._objects:
        raise NotFiddles(f"there is no object {key[:80]!r}")
      self._read[key] = self.value(self._objects[key])
    return self._read[key]

  def _object(self, kind: str, node: Mapping[str, Any]) -> Any:
    if kind == "builtins:bytes":
      return _bytes(list(_items(node)))
    values = [self.value(item) for item in _items(node)]
    if kind in _SEQUENCES:
      return _hashable(_SEQUENCES[kind], values)
    metadata = _fields(node, "metadata")["metadata"]
    if kind == "builtins:dict":
      keys = _typed(self.value(metadata), tuple)
      _same_length(keys, values)
      return _hashable(dict, zip(keys, values, strict=True))
    if kind in _NODES:
      return self._config(_NODES[kind], values, metadata)
    return self._named_tuple(kind, values)

  def _config(
    self, kind: type[fdl.Buildable], values: list[Any], metadata: Any
  ) -> fdl.Buildable:
    """A config node with its arguments, as Fiddle rebuilds it; nothing is called."""
    if isinstance(metadata, dict) and metadata.get("type") == "ref":
      metadata = self._objects.get(_typed(_fields(metadata, "key")["key"], str))
    metadata = _typed(metadata, dict)
    if _name(_typed(metadata.get("type"), dict)) != _TARGET:
      raise NotFiddles("the metadata of a config node are not Fiddle's")
    target, names, tags, *_ = [*map(self.value, _items(metadata)), None, None, None]
    names = _typed(names, tuple)
    _same_length(names, values)
    if not all(isinstance(name, str) and name.isidentifier() for name in names):
      raise NotFiddles("an argument has no name")
    if not callable(target) or isinstance(target, fdl.Buildable):
      raise NotFiddles("a config node configures no class or function")
    return kind.__unflatten__(values, BuildableTraverserMetadata(target, names, _tags(tags)))

  def _named_tuple(self, kind: str, values: list[Any]) -> tuple:
    made = allowed_names.find(kind)
    names = getattr(made, "_fields", None)
    if not (isinstance(made, type) and issubclass(made, tuple) and isinstance(names, tuple)):
      raise NotFiddles(f"{kind} is no kind of value")
    _same_length(names, values)
    return tuple.__new__(made, values)


def _items(node: Mapping[str, Any]) -> Iterator[Any]:
  """The values of a container or node; the label before each is only for readers."""
  for item in _typed(_fields(node, "items")["items"], list):
    if not isinstance(item, list) or len(item) != 2:
      raise NotFiddles("an item is no pair")
    yield item[1]


def _fields(node: Any, *names: str) -> Mapping[str, Any]:
  for name in names:
    if name not in _typed(node, dict):
      raise NotFiddles(f"there is no {name!r} where one has to be")
  return node


def _name(node: Mapping[str, Any]) -> str:
  fields = _fields(node, "module", "name")
  return f"{_typed(fields['module'], str)}:{_typed(fields['name'], str)}"


def _typed(value: Any, kind: type) -> Any:
  if not isinstance(value, kind):
    raise NotFiddles(f"there is a {type(value).__name__} where a {kind.__name__} has to be")
  return value


def _same_length(names: tuple, values: list[Any]) -> None:
  if len(names) != len(values) or len(_hashable(set, names)) != len(names):
    raise NotFiddles(f"{len(names)} names are given to {len(values)} values")


def _hashable(kind: type, values: Any) -> Any:
  try:
    return kind(values)
  except TypeError as error:  # a list as a key
    raise NotFiddles(str(error)) from error


def _bytes(items: list[Any]) -> bytes:
  """Bytes from a text with one character for each byte, given plain or as a leaf."""
  text = items[0] if len(items) == 1 else None
  text = text.get("value") if isinstance(text, dict) else text
  try:
    return _typed(text, str).encode("raw_unicode_escape")
  except UnicodeEncodeError as error:
    raise NotFiddles("bytes are no text") from error


def _tags(tags: Any) -> dict[str, frozenset]:
  """Fiddle's tags of arguments, which a config may have though Strata does not use them."""
  tags = {} if tags is None else _typed(tags, dict)
  for marks in tags.values():
    for mark in marks if isinstance(marks, set | frozenset) else [None]:
      if not (isinstance(mark, type) and issubclass(mark, fdl.Tag)):
        raise NotFiddles("a tag is no tag")
  return tags
