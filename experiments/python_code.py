"""A config as the Python that builds it, laid out to be read and pasted into an experiment."""

import enum
from collections.abc import Iterable, Mapping
from typing import Any

import fiddle as fdl

from layers.errors import UserError
from runners.configs.fields import target_of
from runners.configs.import_by_name import public_name
from runners.configs.tree import format_value, nodes_at

_WIDTH = 96


def to_python(config: fdl.Config) -> str:
  """A module with a function `config()` that returns an equal config.

  Only set fields are written. A node shared by several paths gets a name, so that it stays one
  node.
  """
  return _Writer(config).module()


class _Writer:
  def __init__(self, config: fdl.Config):
    self._config = config
    self._modules: set[str] = set()
    self._shared = {key for key, paths in nodes_at(config).items() if len(paths) > 1}
    self._names: dict[int, str] = {}
    self._statements: list[str] = []

  def module(self) -> str:
    result = self._write(self._config, "  return ")
    imports = [f"import {name}" for name in sorted(self._modules)]
    body = [*self._statements, f"  return {result}"]
    lines = ["import fiddle as fdl", "", *imports, "", "", "def config():", *body]
    return "\n".join(lines) + "\n"

  def _write(self, value: Any, before: str) -> str:
    """`value` as an expression; `before` is the text before it on its line, for the layout."""
    if isinstance(value, fdl.Buildable):
      return self._node(value, before)
    if isinstance(value, Mapping):
      items = [(f"{self._write(key, '')}: ", item) for key, item in value.items()]
      return self._bracketed("{", items, "}", before)
    if isinstance(value, list | tuple):
      opening, closing = "[]" if isinstance(value, list) else "()"
      one = isinstance(value, tuple) and len(value) == 1
      return self._bracketed(opening, [("", item) for item in value], closing, before, one)
    if isinstance(value, enum.Enum):
      return f"{self._symbol(type(value))}.{value.name}"
    if callable(value) and hasattr(value, "__qualname__"):
      return self._symbol(value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
      return repr(value)
    raise UserError(f"{format_value(value)} cannot be written as Python; try --format=json")

  def _node(self, node: fdl.Buildable, before: str) -> str:
    if id(node) in self._names:
      return self._names[id(node)]
    if id(node) in self._shared:
      name = self._names[id(node)] = f"shared_{len(self._names)}"
      self._statements.append(f"  {name} = {self._call(node, f'  {name} = ')}")
      return name
    return self._call(node, before)

  def _call(self, node: fdl.Buildable, before: str) -> str:
    kind = f"fdl.{type(node).__name__}"
    arguments = [("", target_of(node))]
    arguments += [(f"{name}=", value) for name, value in node.__arguments__.items()]
    return self._bracketed(f"{kind}(", arguments, ")", before)

  def _bracketed(
    self,
    opening: str,
    items: Iterable[tuple[str, Any]],
    closing: str,
    before: str,
    comma: bool = False,
  ) -> str:
    """The items on one line if they fit, else one on each line, indented by two more."""
    indent = " " * (len(before) - len(before.lstrip()) + 2)
    written = [label + self._write(item, indent + label) for label, item in items]
    line = f"{opening}{', '.join(written)}{',' if comma else ''}{closing}"
    if "\n" not in line and len(before) + len(line) < _WIDTH:
      return line
    inner = "".join(f"\n{indent}{item}," for item in written)
    return f"{opening}{inner}\n{indent[2:]}{closing}"

  def _symbol(self, value: Any) -> str:
    module, name = public_name(value).split(":")
    if "<" in name:
      raise UserError(f"{module}:{name} is defined inside a function and cannot be imported")
    if module == "builtins":
      return name
    self._modules.add(module)
    return f"{module}.{name}"
