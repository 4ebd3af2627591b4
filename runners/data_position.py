"""Where a run goes on in its training data: at the row after the last one that it has read.

A checkpoint notes how many rows were read, so that a batch size that changes leaves out no row
and repeats none. Rows of another length are other rows: those read cannot be told among them.
"""

from typing import Any

import fiddle as fdl

from layers.errors import UserError
from layers.notices import note
from runners.assembly import Assembly

_ROWS, _LENGTH = "rows", "sequence_length"


def describe(assembly: Assembly, step: int) -> dict[str, int]:
  """What a checkpoint of `step` notes beside the number of its next batch."""
  position = getattr(assembly.batches, "position", None)
  if position is None:  # somebody's own Batches
    return {}
  return {_ROWS: position(step), _LENGTH: assembly.trainer.sequence_length}


def check_length(
  saved: dict[str, Any], before: fdl.Config | None, sequence_length: int, workdir: Any
) -> None:
  """Raises UserError for a run whose rows were of another length.

  Args:
    saved: what the checkpoint notes of the data.
    before: the config of the start before, for checkpoints that do not say it.
    sequence_length: of now.
    workdir: for the message.
  """
  was = saved.get(_LENGTH, sequence_length if before is None else before.sequence_length)
  if was != sequence_length:
    raise UserError(
      f"sequence_length was {was}, is {sequence_length}: rows of another length are other "
      f"rows, and which {workdir} has read cannot be told; begin another --workdir with "
      f"--set=init_from={workdir}, or with its optimizer too: "
      f"'--set=init_from=@InitFrom(path=\"{workdir}\",everything=True)'"
    )


def go_on(assembly: Assembly, saved: dict[str, Any], before: fdl.Config | None) -> Assembly:
  """The assembly whose next batch begins at the first row not read yet."""
  step, size = saved["batch"], assembly.trainer.batch_size
  size_before = size if before is None else before.batch_size
  rows = saved.get(_ROWS, step * size_before)
  if size_before != size:
    note(f"Batches of {size} rows begin at row {rows:,}: none is left out, none read twice.")
  if before is not None and before.seed != assembly.trainer.seed:
    note(
      "Another seed orders the rows anew: of this epoch, some are read twice and others not."
    )
  if rows == step * size:
    return assembly
  if not hasattr(assembly.batches, "continue_from"):
    raise UserError(
      f"batch_size cannot change in a run on {type(assembly.batches).__name__}, which has no "
      "continue_from: choose another --workdir"
    )
  return assembly.continued_from(step, rows)


def take_over(assembly: Assembly, saved: dict[str, Any]) -> Assembly:
  """`go_on` with the position of another run, on the same data."""
  if saved.get(_LENGTH, assembly.trainer.sequence_length) != assembly.trainer.sequence_length:
    note("init_from: rows of another length; the training data are read from their beginning.")
    saved = {**saved, _ROWS: 0}
  return go_on(assembly, saved, None)
