"""Weighted metrics over each whole evaluation set."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from input_pipelines.batches import Batches
from input_pipelines.prefetch import GivenUp
from input_pipelines.progress import Progress
from layers.notices import note
from runners.devices.meshes import place
from runners.train_step import EvalSums
from tasks.objective import Objective
from tasks.weighted_metrics import means, measured

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Evaluator:
  """Evaluates a model on fixed data: the same rows in the same order, every time.

  It draws no random number and does not advance the training data, so a run with evaluation is
  bitwise the run without. Sums merge in float64 on the host: the same number at any batch size.

  Args:
    eval_step: (params, variables, batch) -> EvalSums, jitted.
    objective: for the summary.
    data: name -> batches in evaluation order.
    sharding: of a batch.
    give_up: called before each batch; if it returns True, `GivenUp` is raised.
  """

  def __init__(
    self,
    eval_step: Callable[[Any, Any, Any], EvalSums],
    objective: Objective,
    data: Mapping[str, Batches],
    sharding: NamedSharding,
    give_up: Callable[[], bool] = lambda: False,
  ):
    self._give_up = give_up
    self._eval_step, self._objective = eval_step, objective
    self._data, self._sharding = data, sharding

  def __call__(self, params: Any, variables: Any = _NOTHING) -> dict[str, float]:
    """`eval/<name>/<metric>` -> value, over every evaluation set.

    Args:
      params, variables: of the model.

    A metric whose total weight is zero is left out, with a note.
    """
    scalars: dict[str, float] = {}
    for name, batches in self._data.items():
      with Progress(f"evaluating {name}", batches.num_batches, "batches") as progress:
        total = self._evaluate((params, dict(variables)), batches, progress)
      values, missing = measured(self._objective, total.objective)
      reported, unreported = means(total.reports)
      values, missing = values | reported, missing + unreported
      scalars |= {f"eval/{name}/{key}": value for key, value in values.items()}
      if missing:
        note(
          f"eval_data['{name}'] has nothing to measure {' and '.join(missing)} on: all of its "
          "loss weights are zero"
        )
    return scalars

  def _evaluate(self, model: tuple[Any, Any], batches: Batches, progress: Progress) -> EvalSums:
    empty = jax.device_get(self._objective.empty_metrics())
    total = EvalSums(jax.tree.map(np.float64, empty), {})
    pending = []
    for n in range(batches.num_batches or 0):
      if self._give_up():
        raise GivenUp
      pending.append(self._eval_step(*model, place(batches[n], self._sharding)))
      # A few in flight keep the device busy; all of them would fill its memory.
      if len(pending) == 4:
        total = _merge(total, pending.pop(0))
        progress.advance()
    for sums in pending:
      total = _merge(total, sums)
    return total


def _merge(total: EvalSums, sums: EvalSums) -> EvalSums:
  return total.merge(jax.tree.map(np.float64, jax.device_get(sums)))
