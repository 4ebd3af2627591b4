"""Adds layers' reports to a loss: a balance of experts, a distance to a codebook.

--set=objective=@WithReports(objective=@NextToken(),weights={'load_balance': 0.01})
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics

from layers.errors import UserError
from layers.ranges import NonNegativeFloat
from layers.reports import Reports
from layers.suggestions import did_you_mean
from tasks.objective import ROWS, Batch, Forward, Objective, Outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithReports(Objective):
  """The loss of another objective plus the weighted means of reports.

  The logged loss is the other objective's alone; each report is logged separately, under its
  name and without its factor. The loss is a sum over microbatches if a report's weight is
  proportional to the batch's tokens without padding (for data without segments, to its rows).

  Attributes:
    objective: the other objective.
    weights: name of a report -> its factor in the loss.
  """

  objective: Objective
  weights: Mapping[str, NonNegativeFloat]

  @property
  def splits(self) -> bool:
    """Whether the other objective's loss is a sum over microbatches."""
    return getattr(self.objective, "splits", True)

  def model_inputs(self, batch: Batch) -> tuple[Any, ...]:
    """The other objective's model inputs."""
    return self.objective.model_inputs(batch)

  def totals(self, batch: Batch) -> Any:
    """The other objective's totals, and the number of tokens or rows, float32 scalar."""
    return self.objective.totals(batch), _count(batch)

  def loss(self, forward: Forward, batch: Batch, totals: Any) -> Outcome:
    """The other objective's outcome, with factor * mean of each report added to the loss."""
    of_other, count = totals
    found = self.objective.loss(forward, batch, of_other)
    share = _count(batch) / jnp.where(count > 0, count, 1.0)
    added = sum(factor * _mean(found.reports, name) for name, factor in self.weights.items())
    return found._replace(loss=found.loss + share * added)

  def empty_metrics(self) -> metrics.Collection:
    """The other objective's empty collection."""
    return self.objective.empty_metrics()

  def summary(self, collection: Any) -> dict[str, Any]:
    """The other objective's summary; the runner logs reports itself."""
    return self.objective.summary(collection)


def _count(batch: Batch) -> jax.Array:
  """The number of tokens without padding, or of rows without segments; float32 scalar."""
  segments = batch.get("decoder_segment_ids")
  counted = batch[ROWS] >= 0 if segments is None else segments > 0
  return counted.sum().astype(jnp.float32)


def _mean(reports: Reports, name: str) -> jax.Array:
  if name not in reports:
    raise UserError(
      f"objective.weights names {name!r}, which no layer reports: {did_you_mean(name, reports)}"
    )
  total, weight = reports[name].total.sum(), reports[name].weight.sum()
  return total / jnp.where(weight > 0, weight, 1.0)
