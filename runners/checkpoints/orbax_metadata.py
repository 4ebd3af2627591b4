"""Orbax's own description of a checkpoint's arrays, read without the arrays."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging


def state_metadata(folder: Path) -> Any:
  """The state's tree, with Orbax's metadata (shape, dtype) in place of arrays."""
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
  """Silences the absl message that begins with `start`, which the user cannot act on."""
  logger = logging.get_absl_logger()
  keep = lambda record: not record.getMessage().startswith(start)
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)
