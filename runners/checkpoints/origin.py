"""With which config a run was started, as its checkpoints note it.

config.json says it as long as it is there. Each checkpoint carries every field of the config as
text, so that a run whose config.json was lost does not go on as another one.
"""

from pathlib import Path

from runners.checkpoints.folders import CHECKPOINTS, saved_steps
from runners.configs.old_names import with_current_names


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
