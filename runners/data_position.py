"""Continues a run in its training data at the first row that it has not read.

A checkpoint records the number of rows read, so that a changed batch size skips no row and
repeats none. With another row length the rows already read cannot be identified.
"""

from typing import Any

import fiddle as fdl

from layers.errors import UserError
from layers.notices import note
from runners.assembly import Assembly

_ROWS, _LENGTH = "rows", "sequence_length"


def describe(assembly: Assembly, step: int) -> dict[str, int]:
  """The data position that a checkpoint of `step` records beside its next batch's number."""
  position = getattr(assembly.batches, "position", None)
  if position is None:  # a user's own Batches
    return {}
  return {_ROWS: position(step), _LENGTH: assembly.trainer.sequence_length}


def check_length(
  saved: dict[str, Any], before: fdl.Config | None, sequence_length: int, workdir: Any
) -> None:
  """Raises UserError if the run's rows had another length.

  Args:
    saved: the checkpoint's record of the data.
    before: the previous start's config, for checkpoints without a recorded length.
    sequence_length: the present length, in tokens.
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
  """The assembly, with its next batch at the first row not read yet."""
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
  """`go_on` from the position of another run on the same data."""
  if saved.get(_LENGTH, assembly.trainer.sequence_length) != assembly.trainer.sequence_length:
    note("init_from: rows of another length; the training data are read from their beginning.")
    saved = {**saved, _ROWS: 0}
  return go_on(assembly, saved, None)
