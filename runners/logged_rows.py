"""How many rows a run has logged, so that it can tell when some of metrics.jsonl are gone."""

from typing import Any

from layers.notices import note
from runners.callbacks import Callback, Run


class LoggedRows(Callback):
  """Counts the rows. The last callback, since those before it may add the scalars of one."""

  def __init__(self) -> None:
    self._count: int | None = 0  # None: the checkpoint does not say

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    if self._count is not None:
      self._count += bool(scalars)

  def state(self) -> dict[str, Any]:
    return {"rows": self._count}

  def restore(self, state: dict[str, Any]) -> None:
    self._count = state["rows"]

  def forget(self) -> None:
    """What the rows of a checkpoint are that was saved before they were counted."""
    self._count = None

  def compare(self, num_rows: int, step: int) -> None:
    """Says how many rows up to `step` are missing where metrics.jsonl has `num_rows`."""
    if self._count is not None and num_rows < self._count:
      note(
        f"metrics.jsonl has {num_rows:,} of the {self._count:,} rows that were written up to "
        f"step {step:,}: the others are gone, and the run goes on without them."
      )
    elif self._count is None and step and not num_rows:
      note(f"metrics.jsonl has no row up to step {step:,}: it begins anew there.")
