"""What Orbax notes of the arrays of a checkpoint, without reading one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging


def state_metadata(folder: Path) -> Any:
  """The tree of what is known of each array; no array is read."""
  import orbax.checkpoint as ocp

  with (
    _without_warning("Metadata file does not exist"),
    ocp.PyTreeCheckpointer() as checkpointer,
  ):
    metadata = checkpointer.metadata((folder / "state").absolute())
  tree = getattr(metadata, "item_metadata", metadata)
  return getattr(tree, "tree", tree)


@contextlib.contextmanager
def _without_warning(start: str) -> Iterator[None]:
  """Leaves out what absl logs with this beginning, which says nothing of the checkpoint."""
  logger = logging.get_absl_logger()
  keep = lambda record: not record.getMessage().startswith(start)
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)
