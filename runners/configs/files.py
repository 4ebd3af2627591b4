"""config.json and config.txt: the config of a run, to be read, compared and repeated.

  {"exp": "gpt2.Nano",                      config.json: the experiment,
   "config": {...},                         what is set, in Fiddle's own JSON,
   "defaults": {"optimizer.b2": "0.95"}}    and what was not, as it was then
  model.num_layers = 4                      config.txt, one field a line, defaults included

Reading imports only modules that runners/configs/allowed_names.py allows, and calls nothing.
"""

import json
import os
import pathlib
import re
import sys
import types
from collections.abc import Mapping
from typing import NamedTuple

import fiddle as fdl
from fiddle import daglish
from fiddle.experimental import serialization

from input_pipelines.allowed_packages import FLOORS, refusal
from input_pipelines.foreign_json import Document, parse_json
from layers.errors import UserError, short
from layers.suggestions import did_you_mean
from runners.configs import allowed_names, fiddle_json
from runners.configs.defaults import is_default, recorded_defaults
from runners.configs.derived import derive_eval_data, derived_fields
from runners.configs.field_types import can_be
from runners.configs.fields import field_of, fields, target_of
from runners.configs.import_by_name import public_name
from runners.configs.tree import callables_in, flatten, format_value, path_text, walk
from runners.configs.value_limits import MAX_CONFIG_BYTES, MAX_DEFAULTS
from runners.processes.workdir_entries import replace_file

JSON_NAME = "config.json"
TEXT_NAME = "config.txt"
MAX_NAME = 120  # characters of an experiment's name


class Difference(NamedTuple):
  """A field in which two configs differ; its value is None in a config without the field."""

  path: str
  before: str | None
  after: str | None

  def here_and_there(self) -> str:
    """`optimizer.b2: 0.95 there, 0.5 here`, for a config that goes on where another was."""
    before, after = ("absent" if text is None else text for text in self[1:])
    return f"{self.path}: {before} there, {after} here"


class StoredConfig(NamedTuple):
  """What a config.json holds.

  Attributes:
    exp: the experiment it came from.
    config: resolved; what is unset in it has the defaults of now.
    defaults: path -> value as text of the defaults of then; None in one of an older version.
  """

  exp: str
  config: fdl.Config
  defaults: Mapping[str, str] | None = None


def differences(before: fdl.Config, after: fdl.Config) -> list[Difference]:
  """The fields whose printed values differ: in the order of `after`, then fields it lacks."""
  return text_differences(flatten(before), flatten(after))


def text_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
  """`differences` of two configs in their flattened form (path -> value as text)."""
  paths = [*new, *(path for path in old if path not in new)]
  return [
    Difference(path, old.get(path), new.get(path))
    for path in paths
    if old.get(path) != new.get(path)
  ]


def changes_since(recorded: Mapping[str, str], config: fdl.Config) -> list[Difference]:
  """The fields in which a config differs from what a record says of another.

  A field that the record lacks, and that nobody has set, was added since with its default.
  """
  unset = {path_text(path) for path, _, _ in walk(config) if is_default(config, path)}
  return [
    difference
    for difference in text_differences(recorded, flatten(config))
    if difference.before is not None or difference.path not in unset
  ]


def effective(config: fdl.Config) -> fdl.Config:
  """The config to show, in which evaluation data have their fields from the training data."""
  complete = {"train_data", "eval_data"} <= config.__arguments__.keys()
  return derive_eval_data(config) if complete else config


def to_text(config: fdl.Config) -> str:
  """The content of config.txt."""
  config = effective(config)
  lines = flatten(config)
  for path, source in derived_fields(config).items():
    if path in lines:
      lines[path] = f"<derived from {source}>"
  return "".join(f"{path} = {value}\n" for path, value in lines.items())


def to_json(config: fdl.Config, exp: str) -> str:
  """The content of config.json."""
  _make_storable(config)
  try:
    stored = json.loads(serialization.dump_json(config))
  except (serialization.UnserializableValueError, serialization.PyrefPolicyError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f"the config of {exp} cannot be stored: {reason}; use a function or class that can be"
      " imported by name, a nested config, or a plain value"
    ) from error
  allowed_names.admit(fiddle_json.names_in(stored))  # so this process may read it back
  document = {"exp": exp, "config": stored, "defaults": recorded_defaults(config)}
  return json.dumps(document, indent=1) + "\n"


def from_json(text: str | bytes, source: str) -> StoredConfig:
  """Reads what `to_json` wrote; `source` names the file in errors.

  Raises:
    UserError: it is no such file, it is damaged, or it uses a name that is not allowed.
  """
  document = Document.of(parse_json(text, source), source)
  if not {"exp", "config"} <= document.values.keys():
    raise UserError(f"{source} is not a run's config.json: it needs 'exp' and 'config'")
  exp, stored = document.text("exp"), document.document("config").values
  check_experiment_name(exp, source)
  try:
    if refused := allowed_names.refused(fiddle_json.names_in(stored)):
      raise UserError(f"it names {refusal(refused)}")
    config = fiddle_json.read(stored)
  except fiddle_json.NotFiddles as error:
    raise UserError(f"{source} is damaged: its config cannot be read ({error})") from error
  except UserError as error:
    raise UserError(f"{source} cannot be read: {error}") from error
  if not isinstance(config, fdl.Config):
    raise UserError(f"{source} holds a {type(config).__name__}, not a config")
  _check_fields(config, source)
  return StoredConfig(exp, config, _defaults(document))


def _defaults(document: Document) -> dict[str, str] | None:
  """The section of that name, each value a text; it says nothing of what `config` sets."""
  if "defaults" not in document.values:
    return None
  section = document.document("defaults")
  if len(section.values) > MAX_DEFAULTS:
    raise UserError(f"{section.source} holds more than {MAX_DEFAULTS:,} fields")
  defaults = {path: section.text(path) for path in section.values}
  if not all(path.isprintable() and text.isprintable() for path, text in defaults.items()):
    raise UserError(f"{section.source} holds what is no printable text")
  return defaults


def check_experiment_name(exp: str, source: str) -> None:
  """Raises UserError unless `exp` can name an experiment, and so a run's folder."""
  if not re.fullmatch(r"\w[\w-]*(\.\w[\w-]*)*", exp) or len(exp) > MAX_NAME:
    raise UserError(f"{source}: {exp[:MAX_NAME]!r} is no name of an experiment, like gpt2.Nano")


def save(config: fdl.Config, exp: str, workdir: str | os.PathLike[str]) -> None:
  """Writes config.json and config.txt; a crash leaves the old file or the new one."""
  folder = pathlib.Path(workdir)
  for name, text in ((TEXT_NAME, to_text(config)), (JSON_NAME, to_json(config, exp))):
    try:
      folder.mkdir(parents=True, exist_ok=True)
      replace_file(folder / name, text)
    except OSError as error:
      reason = error.strerror or error
      raise UserError(
        f"cannot write {folder / name}: {reason}; make room, or choose another --workdir"
      ) from error


def load(path: str | os.PathLike[str]) -> StoredConfig:
  """Reads a config.json, given as the file or as the run's folder."""
  file = pathlib.Path(path)
  if os.path.isdir(file):
    file = file / JSON_NAME
  return from_json(read_text(file), str(file))


def listed_fields(text: str) -> dict[str, str]:
  """Path -> value of the lines of a config.txt."""
  lines = (re.match(r"((?:\[[^\]]*\]|[^\[=])+?) = (.*)", line) for line in text.split("\n"))
  return {line[1]: line[2] for line in lines if line is not None and line[0].isprintable()}


def read_text(file: pathlib.Path, max_bytes: int = MAX_CONFIG_BYTES) -> str:
  """The text of a file that the user named, a pipe such as <(...) included."""
  try:
    with open(file, "rb") as stream:
      content = stream.read(max_bytes + 1)
    text = content.decode("utf-8")
  except UnicodeDecodeError as error:
    raise UserError(f"{file} is not UTF-8 text (byte {error.start})") from error
  except (OSError, ValueError) as error:  # a NUL character in its name
    raise UserError(
      f"cannot read {file}: {getattr(error, 'strerror', None) or error}"
    ) from error
  if len(content) > max_bytes:
    raise UserError(f"{file} has more than {max_bytes:,} bytes, and is not read")
  return text


def _make_storable(config: fdl.Config) -> None:
  """Tells Fiddle the names of callable objects, such as jax.nn.relu; it knows functions."""
  for value in callables_in(config):
    if isinstance(value, type | types.FunctionType | types.MethodType):
      continue
    module, name = public_name(value).split(":")
    if getattr(sys.modules.get(module), name, None) is value:
      serialization.register_constant(module, name, compare_by_identity=True)


def _check_fields(config: fdl.Config, source: str) -> None:
  """Raises UserError for a field that its class no longer has, or a value of a wrong type.

  Fiddle loads both silently, and building would fail. Types are checked for our own classes
  only.
  """
  for path, node, _ in [((), config, None), *walk(config)]:
    if not isinstance(node, fdl.Buildable):
      continue
    target = target_of(node)
    ours = getattr(target, "__module__", "").partition(".")[0] in FLOORS
    for name, value in node.__arguments__.items():
      field = field_of(node, str(name))
      if field is None:
        raise UserError(
          f"{source} sets {path_text(path) or 'the root'}.{name}, but {public_name(target)} has"
          f" no field {name!r} (any more): {did_you_mean(str(name), fields(target))}"
        )
      if ours and not can_be(value, field.annotation) and value is not field.default:
        where = path_text((*path, daglish.Attr(str(name))))
        raise UserError(f"{source}: {where} cannot be {short(format_value(value))}")
