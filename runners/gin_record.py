"""operative_config.gin: the gin values that were in force for a run's preprocessors."""

from collections.abc import Mapping
from pathlib import Path

from input_pipelines.batches import Batches
from input_pipelines.token_store import OPERATIVE_GIN
from layers.errors import UserError
from runners.processes.workdir_entries import replace_file

FILE_NAME = "operative_config.gin"


def save(workdir: Path, data: Mapping[str, Batches]) -> None:
  """Writes the file: a part for each of `data` (path -> batches) that used gin."""
  parts = [
    f"# {path}{below}\n\n{notes[OPERATIVE_GIN].strip()}\n"
    for path, batches in data.items()
    for below, notes in getattr(batches, "notes", {}).items()
    if OPERATIVE_GIN in notes
  ]
  if parts:
    try:
      replace_file(workdir / FILE_NAME, "\n\n".join(parts))
    except OSError as error:
      raise UserError(
        f"cannot write {workdir / FILE_NAME}: {error.strerror}; make room or mend the folder, "
        "and give the same command again"
      ) from error
