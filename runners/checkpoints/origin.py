"""The config that a run was started with, from the files in the run's folder.

config.json has it, with the defaults of its time. Older versions wrote only the fields that
were set; their defaults are read from config.txt or from a checkpoint. Each checkpoint also
holds every field of the config as text, so that a run whose config.json was lost does not
continue with another config.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import fiddle as fdl

from layers.errors import UserError, short
from layers.notices import note
from runners.checkpoints.folders import CHECKPOINTS, saved_steps
from runners.configs import files as config_files
from runners.configs.defaults import defaults_listed, recorded_fields, restore
from runners.configs.old_names import with_current_names

_LISTED = 5  # of the fields that a note names


@dataclasses.dataclass(frozen=True)
class RecordedConfig:
  """A config as it was when it was recorded.

  Attributes:
    source: the file, for messages.
    exp: the experiment's name.
    config: the config with the fields that were set; the others have today's defaults.
    defaults: path -> value as text of the defaults of its time; None if no file has them.
  """

  source: str
  exp: str
  config: fdl.Config
  defaults: Mapping[str, str] | None

  def fields(self) -> dict[str, str]:
    """Path -> value as text of every field, with the defaults of its time."""
    return recorded_fields(self.config, self.defaults or {})

  def as_it_was(self) -> fdl.Config:
    """The config with the defaults of its time, as far as they can be set now."""
    return restore(self.config, self.defaults or {}).config

  def replayed(self) -> tuple[fdl.Config, dict[str, str]]:
    """The config with the defaults of its time, and path -> value of those changed since.

    A note names the changed defaults, and the fields that no longer exist.

    Raises:
      UserError: a default has changed, and the old value cannot be read from its text.
    """
    restored = restore(self.config, self.defaults or {})
    if restored.unread:
      raise UserError(
        f"{self.source} cannot be repeated, because defaults have changed since: "
        f"{_some(restored.unread)}; take their lines out of its 'defaults' for those of now"
      )
    if restored.changed:
      fields = [f"{c.path} is {c.then} ({c.now or 'nothing'} now)" for c in restored.changed]
      note(f"{self.source} has the defaults of its time: {_some(fields)}.")
    if restored.gone:
      fields = [f"{c.path}, which was {c.then}" for c in restored.gone]
      note(f"{self.source} has defaults of fields that are no more: {_some(fields)}.")
    return restored.config, {change.path: change.then for change in restored.changed}


def recorded_config(path: str | Path) -> RecordedConfig:
  """The config in a run's config.json.

  Args:
    path: the file, or the run's folder.

  Raises:
    UserError: it cannot be read.
  """
  file = Path(path)
  if file.is_dir():
    file = file / config_files.JSON_NAME
  return with_defaults(config_files.load(file), file)


def with_defaults(stored: config_files.StoredConfig, file: Path) -> RecordedConfig:
  """The config read from `file`; defaults missing in it come from the files beside it."""
  defaults = stored.defaults
  if defaults is None and file.name == config_files.JSON_NAME:
    defaults = next(_defaults_beside(file, stored.config), None)
  return RecordedConfig(str(file), stored.exp, stored.config, defaults)


def _defaults_beside(file: Path, config: fdl.Config) -> Iterator[dict[str, str]]:
  """The defaults in config.txt, then in the newest checkpoint, if they fit this config."""
  text = file.with_name(config_files.TEXT_NAME)
  if text.is_file():
    try:
      listed = config_files.listed_fields(config_files.read_text(text))
      found = defaults_listed(listed, config, config_files.effective(config))
    except UserError:  # config.txt is for people, who may have edited it
      found = None
    if found is not None:
      yield found
    else:
      note(f"{text} is of another config than {file}, and says nothing of its defaults.")
  _, fields = noted_config(file.parent) or (0, None)
  found = fields and defaults_listed(fields, config, config)
  if found is not None:
    yield found


def _some(texts: list[str] | tuple[str, ...]) -> str:
  listed = "; ".join(short(text) for text in texts[:_LISTED])
  more = len(texts) - _LISTED
  return f"{listed}; and {more} more" if more > 0 else listed


def noted_config(workdir: str | Path) -> tuple[int, dict[str, str] | None] | None:
  """The newest step whose JSON can be read, and its config: path -> value as text.

  The config is None if an older version saved the step. The result is None without a step.
  """
  directory = Path(workdir) / CHECKPOINTS
  numbers = saved_steps(directory)
  if not numbers:
    return None
  # jax takes a second to load: only where there is a checkpoint to look at.
  from runners.checkpoints.documents import ORIGIN, DamagedCheckpoint, open_documents

  for number in reversed(numbers):
    try:
      documents, _ = open_documents((directory / str(number)).absolute())
    except DamagedCheckpoint:  # reported when a run continues from it
      continue
    fields = documents.get(ORIGIN, {}).get("config")
    return number, fields and {path: with_current_names(text) for path, text in fields.items()}
  return None
