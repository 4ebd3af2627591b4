"""With which config a run was started, as its folder tells it.

config.json says it, with the defaults of then. One of an older version says only what was set;
the defaults stand beside it, in config.txt and in the checkpoints, each of which carries every
field of the config as text. By these a run whose config.json was lost does not go on as another
one either.
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
    config: with what was set; the rest has the defaults of now.
    defaults: path -> value as text, of then; None where nothing tells them.
  """

  source: str
  exp: str
  config: fdl.Config
  defaults: Mapping[str, str] | None

  def fields(self) -> dict[str, str]:
    """Path -> value as text of every field, as it was."""
    return recorded_fields(self.config, self.defaults or {})

  def as_it_was(self) -> fdl.Config:
    """The config with its defaults of then, as far as they can be set now."""
    return restore(self.config, self.defaults or {}).config

  def replayed(self) -> tuple[fdl.Config, dict[str, str]]:
    """The config with its defaults of then, and which of them are not those of now.

    They are named in a note, and so are fields that are no more.

    Raises:
      UserError: a default has changed, and the one of then cannot be read from its text.
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
  """What the config.json of a run says, given as the file or as the run's folder.

  Raises:
    UserError: it cannot be read.
  """
  file = Path(path)
  if file.is_dir():
    file = file / config_files.JSON_NAME
  return with_defaults(config_files.load(file), file)


def with_defaults(stored: config_files.StoredConfig, file: Path) -> RecordedConfig:
  """What was read from `file`; what it does not say of its defaults is looked for beside it."""
  defaults = stored.defaults
  if defaults is None and file.name == config_files.JSON_NAME:
    defaults = next(_defaults_beside(file, stored.config), None)
  return RecordedConfig(str(file), stored.exp, stored.config, defaults)


def _defaults_beside(file: Path, config: fdl.Config) -> Iterator[dict[str, str]]:
  """What config.txt and the newest checkpoint say, if they are of this config."""
  text = file.with_name(config_files.TEXT_NAME)
  if text.is_file():
    try:
      listed = config_files.listed_fields(config_files.read_text(text))
      found = defaults_listed(listed, config, config_files.effective(config))
    except UserError:  # it is for people, who may have written into it
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

  The config is None where an older version saved the step; without such a step, all is None.
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
    except DamagedCheckpoint:  # a run that goes on says so
      continue
    fields = documents.get(ORIGIN, {}).get("config")
    return number, fields and {path: with_current_names(text) for path, text in fields.items()}
  return None
