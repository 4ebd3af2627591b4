"""Counts the rows that a run has logged, to notice when rows of metrics.jsonl are missing."""

from typing import Any

from layers.notices import note
from runners.callbacks import Callback, Run


class LoggedRows(Callback):
  """Counts logged rows. It is the last callback, since earlier ones may add scalars."""

  def __init__(self) -> None:
    self._count: int | None = 0  # None: an older checkpoint has no count

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    if self._count is not None:
      self._count += bool(scalars)

  def state(self) -> dict[str, Any]:
    return {"rows": self._count}

  def restore(self, state: dict[str, Any]) -> None:
    self._count = state["rows"]

  def forget(self) -> None:
    """Sets the count to unknown, for checkpoints from before rows were counted."""
    self._count = None

  def compare(self, num_rows: int, step: int) -> None:
    """Notes how many rows up to `step` are missing from the `num_rows` in metrics.jsonl."""
    if self._count is not None and num_rows < self._count:
      note(
        f"metrics.jsonl has {num_rows:,} of the {self._count:,} rows that were written up to "
        f"step {step:,}: the others are gone, and the run goes on without them."
      )
    elif self._count is None and step and not num_rows:
      note(f"metrics.jsonl has no row up to step {step:,}: it begins anew there.")
