"""The defaults that a config was made with, kept as text, so that the code's may change.

A config holds the fields that were set; the others have defaults of classes and functions,
which a later version of the code may change. config.json keeps `recorded_defaults`, and
`restore` sets the recorded defaults that have changed since.

A field that is not recorded was added later, with a default that changes nothing. A recorded
field that no longer exists was removed, and is named. Derived fields are not recorded, because
the fields they are derived from are.
"""

import re
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import fiddle as fdl
from fiddle import daglish

from layers.errors import UserError
from runners.configs.derived import derived_places
from runners.configs.field_types import can_be
from runners.configs.fields import REQUIRED, as_node, field_of, value_of
from runners.configs.old_names import with_current_names
from runners.configs.tree import Path, Step, copy_config, flatten, format_value, path_text, walk
from runners.configs.written_values import read_written

NOT_SET = format_value(REQUIRED)


class Default(NamedTuple):
  """A field at its default: where it is, its type (Any in a container), its value as text."""

  path: Path
  annotation: Any
  text: str


class Changed(NamedTuple):
  """A default that has changed since the config was made; `now` is None if it is gone."""

  path: str
  then: str
  now: str | None


class Restored(NamedTuple):
  """A config with the defaults of its time.

  Attributes:
    config: the config, with the values of `changed` set.
    changed: fields whose default has changed since.
    gone: fields that no longer exist, and so cannot be set.
    unread: for each value that could not be put into the config, a line with the reason.
  """

  config: fdl.Config
  changed: tuple[Changed, ...]
  gone: tuple[Changed, ...]
  unread: tuple[str, ...]


def defaults_of(config: fdl.Config) -> dict[str, Default]:
  """Path -> default of every field that is neither set nor derived, `<not set>` included."""
  derived = derived_places(config)
  nodes: dict[Path, fdl.Buildable] = {(): config}
  found = {}
  for path, value, _ in walk(config):
    if isinstance(value, fdl.Buildable):
      nodes[path] = value
    place = _unset_at(config, path)
    if place is None or place in derived:
      continue
    annotation = _annotation(nodes.get(path[:-1]), path[-1])
    found[path_text(path)] = Default(path, annotation, format_value(value))
  return found


def _annotation(owner: fdl.Buildable | None, step: Step) -> Any:
  """The type annotation of a field; Any for an item of a container."""
  if owner is None or not isinstance(step, daglish.Attr):
    return Any
  field = field_of(owner, step.name)
  return Any if field is None else field.annotation


def recorded_defaults(config: fdl.Config) -> dict[str, str]:
  """Path -> value as text of every default in use in this config."""
  texts = {path: default.text for path, default in defaults_of(config).items()}
  return {path: text for path, text in texts.items() if text != NOT_SET}


def is_default(config: fdl.Config, path: Path) -> bool:
  """Whether neither the field at `path` nor an object that contains it was set."""
  return _unset_at(config, path) is not None


def recorded_fields(config: fdl.Config, recorded: Mapping[str, str]) -> dict[str, str]:
  """As `flatten`, but with the recorded defaults; records are compared in this form."""
  found, today = flatten(config), defaults_of(config)
  for path, text in recorded.items():
    if path not in found or (path in today and not _says(text, today[path])):
      found[path] = with_current_names(text)
  return found


def defaults_listed(
  listed: Mapping[str, str], config: fdl.Config, view: fdl.Config
) -> dict[str, str] | None:
  """The defaults of `config`, from a list of all its fields in config.txt or a checkpoint.

  Args:
    listed: path -> value as text of every field.
    config: the config with the fields that are set.
    view: the config as the list shows it, which may include derived evaluation data.

  Returns:
    Path -> value as text; None if the list is of another config.
  """
  shown = flatten(view)
  for path, _, _ in walk(view):
    text = path_text(path)
    said = Default(path, Any, shown[text])
    if not is_default(view, path) and not (text in listed and _says(listed[text], said)):
      return None
  today = defaults_of(config)
  return {
    path: text
    for path, text in listed.items()
    if (path in today or path not in shown)
    and text != NOT_SET
    and not text.startswith("<derived from ")
  }


def restore(config: fdl.Config, recorded: Mapping[str, str]) -> Restored:
  """A copy of `config` in which the recorded defaults that have changed since are set."""
  config = copy_config(config)
  fields, today = flatten(config), defaults_of(config)
  before = today
  changed: list[Changed] = []
  gone: dict[str, Changed] = {}
  unread: list[str] = []
  for path, text in recorded.items():  # an object comes before its fields
    text = with_current_names(text)
    if path not in fields:
      if _is_gone(path, fields, gone.keys()):
        gone[path] = Changed(path, text, None)
      else:
        unread.append(f"{path} was {text}, and there is no such place now")
    elif path in today and not _says(text, today[path]):
      try:
        _put(config, today[path], text)
      except UserError as error:
        unread.append(f"{path} was {text} and is {today[path].text} ({error})")
        continue
      changed.append(Changed(path, text, before[path].text if path in before else None))
      fields, today = flatten(config), defaults_of(config)
  return Restored(config, tuple(changed), tuple(gone.values()), tuple(unread))


def _is_gone(path: str, fields: Mapping[str, str], gone: Set[str]) -> bool:
  """Whether the node above `path` lacks this field, or is gone itself."""
  above = re.sub(r"(^|\.)\w+$|\[[^\[\]]*\]$", "", path)
  if above in gone or path.endswith("]"):
    return above in gone
  return above == "" or re.search(r"@[\w.:]+\(\)\)?$", fields.get(above, "")) is not None


def _put(config: fdl.Config, default: Default, text: str) -> None:
  """Sets the value in a text in a default's place; objects above it become config nodes."""
  value = read_written(text, default.annotation)
  if not can_be(value, default.annotation):
    raise UserError("the field's type is another now")
  node: Any = config
  *above, last = default.path
  for step in above:
    if not isinstance(step, daglish.Attr):
      node = node[step.key if isinstance(step, daglish.Key) else step.index]
      continue
    child = as_node(value_of(node, step.name))
    if step.name not in node.__arguments__:
      setattr(node, step.name, child)
    node = child
  if not isinstance(node, fdl.Buildable) or not isinstance(last, daglish.Attr):
    raise UserError("it is part of a list that is a default")
  setattr(node, last.name, value)


def _says(text: str, default: Default) -> bool:
  """Whether a text stands for a default's value, perhaps written with older names."""
  text = with_current_names(text)
  if text == default.text:
    return True
  try:
    return format_value(read_written(text, default.annotation)) == default.text
  except UserError:
    return False


def _unset_at(config: fdl.Config, path: Path) -> tuple[int, str] | None:
  """(id of the node, field) at the first unset field along `path`; None if all are set."""
  value: Any = config
  for step in path:
    if isinstance(step, daglish.Attr):
      if not isinstance(value, fdl.Buildable):  # a built object that was set
        return None
      if step.name not in value.__arguments__:
        return id(value), step.name
      value = value.__arguments__[step.name]
    else:
      value = value[step.key if isinstance(step, daglish.Key) else step.index]
  return None
