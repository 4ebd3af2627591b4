"""Explains a field's value: everything that set it, from first to last.

First the default, then lines of experiment code (Fiddle records where a field is set), then the
overrides in their order of application.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import fiddle as fdl
from fiddle import daglish, history

from experiments.edits import find
from experiments.paths import parse_path
from experiments.replacement import HANDED_ON
from experiments.resolution import Resolved
from experiments.source_lines import who_set
from layers.errors import UserError
from runners.configs.fields import REQUIRED, field_of, target_of
from runners.configs.files import effective
from runners.configs.tree import Path, Step, format_value, nodes_at, path_text

_TRAIN_DATA = daglish.Attr("train_data")


class Origin(NamedTuple):
  """A value, and the code or override that gave it."""

  value: str
  who: str


@dataclasses.dataclass(frozen=True)
class Explanation:
  """A field's value and its origins, from the oldest to the one in force."""

  path: str
  value: str
  origins: tuple[Origin, ...]
  also_at: tuple[str, ...] = ()  # paths of the same shared node: setting one sets all

  def lines(self) -> list[str]:
    """Lines for people: the value, who set it, then earlier values, newest first."""
    text = [f"{self.path} = {self.value}"]
    if self.origins:
      text.append(f"  set by {self.origins[-1].who}")
    text += [f"  before: {origin.value}, {origin.who}" for origin in self.origins[-2::-1]]
    if self.also_at:
      text.append(f"  shared: the same object as {', '.join(self.also_at)}")
    return text


def explain(resolved: Resolved, path: str) -> Explanation:
  """The explanation of the field at `path`."""
  place = find(resolved.config, parse_path(path))
  text = path_text(place.path)
  origins = [*_base_origins(resolved, place.path), *_override_origins(resolved, place.path)]
  value = format_value(find(effective(resolved.config), place.path).value)
  if value != format_value(place.value):  # only evaluation data take values from elsewhere
    source = path_text((_TRAIN_DATA, *place.path[2:]))
    origins.append(Origin(value, f"{source}, which evaluation data take over"))
  owner_path, owner = _owner(resolved.config, place.path)
  same = nodes_at(resolved.config).get(id(owner), [])
  rest = path_text(place.path)[len(path_text(owner_path)) :]
  also_at = tuple(f"{other}{rest}" for other in same if other != path_text(owner_path))
  return Explanation(text, value, tuple(origins), also_at)


def _base_origins(resolved: Resolved, path: Path) -> Iterator[Origin]:
  """The default and the lines of the experiment that set the field, before any override."""
  try:
    find(resolved.base, path)
  except UserError:  # it came with an override
    return
  owner_path, owner = _owner(resolved.base, path)
  step, *rest = path[len(owner_path) :]
  assert isinstance(step, daglish.Attr)  # what stands directly below a config node
  name = step.name
  field = field_of(owner, name)
  default = REQUIRED if field is None else _below(field.default_value(), rest)
  whose = f"the default of {target_of(owner).__qualname__}"
  if default is not REQUIRED:
    yield Origin(format_value(default), whose)
  if resolved.experiment is None:
    if name in owner.__arguments__:
      then = path_text(path) in resolved.defaults_then
      who = f"{resolved.base_source}{', whose default it was' if then else ''}"
      yield Origin(format_value(find(resolved.base, path).value), who)
    return
  for entry in owner.__argument_history__.get(name, ()):
    if entry.kind is not history.ChangeKind.NEW_VALUE:
      continue
    deleted = entry.new_value is history.DELETED
    value = default if deleted else _below(entry.new_value, rest)
    if deleted or value is not REQUIRED:
      text = format_value(value)
      who = who_set(entry.location, name, text, resolved.experiment)
      yield Origin(text, f"{who} (unset)" if deleted else who)


def _override_origins(resolved: Resolved, path: Path) -> Iterator[Origin]:
  """Overrides of the field, and the last one that replaced a part containing it."""
  text = path_text(path)
  above = {path_text(path[:depth]) for depth in range(1, len(path))}
  value = format_value(find(resolved.config, path).value)
  replaced, last = None, ""
  for change in resolved.changes:
    if change.path == text:
      replaced, last = None, change.who
      yield Origin("nothing" if change.after is None else change.after, change.who)
    elif change.path in above and change.after is not None and change.who != last:
      did = "kept it in" if _is_handed_on(path, change.path) else "set"
      replaced = Origin(value, f"{change.who}, which {did} {change.path}")
  if replaced is not None:
    yield replaced


def _is_handed_on(path: Path, replaced: str) -> bool:
  """Whether the part at `replaced` took the field over from the part it replaced."""
  step = path[len(parse_path(replaced))]
  return isinstance(step, daglish.Attr) and step.name in HANDED_ON


def _owner(config: fdl.Config, path: Path) -> tuple[Path, fdl.Buildable]:
  """The nearest config node above `path`; it has the history of its fields."""
  for depth in range(len(path) - 1, 0, -1):
    value = find(config, path[:depth]).value
    if isinstance(value, fdl.Buildable):
      return path[:depth], value
  return (), config


def _below(value: Any, steps: Sequence[Step]) -> Any:
  """The value in `value` at `steps`; REQUIRED if there is none."""
  for step in steps:
    try:
      if isinstance(step, daglish.Attr):
        value = getattr(value, step.name)
      else:
        value = value[step.key if isinstance(step, daglish.Key) else step.index]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
      return REQUIRED
  return value
