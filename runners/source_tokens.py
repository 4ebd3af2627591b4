"""Counts the tokens of each source of a mixture that a run has been trained on."""

from typing import Any

from input_pipelines.mixing import MixedBatches
from runners.callbacks import Callback, Run


class SourceTokens(Callback):
  """Adds `data/<source>/tokens`, counted from the run's first step, to the logged scalars.

  The counts are saved with the state, so that they are exact after a restart, even with other
  sources or rates.
  """

  def __init__(self, batches: MixedBatches):
    self._batches = batches
    self._step = self._counted_to = 0
    self._tokens: dict[str, int] = {}

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    self._step = run.step
    if any(name.startswith("train/") for name in scalars):
      self._count()
      scalars |= {f"data/{name}/tokens": count for name, count in self._tokens.items()}

  def state(self) -> dict[str, Any]:
    self._count()
    return {"step": self._step, "tokens": dict(self._tokens)}

  def restore(self, state: dict[str, Any]) -> None:
    self._step = self._counted_to = int(state["step"])
    self._tokens = {name: int(count) for name, count in dict(state["tokens"]).items()}

  def _count(self) -> None:
    """Counts up to this step; for checkpoints older than the counts, counts the whole run."""
    read = self._batches.tokens_by_source(self._counted_to, self._step)
    self._tokens = {
      name: self._tokens.get(name, 0) + read.get(name, 0) for name in {**self._tokens, **read}
    }
    self._counted_to = self._step
