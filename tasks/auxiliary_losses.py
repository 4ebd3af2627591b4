"""What layers report, added to a loss: a balance of experts, a distance to a codebook.

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

  What is logged as the loss is the other objective's alone: each report is logged apart, under
  its name and without its weight. The loss is a sum over microbatches where a report's weight
  is in proportion to the batch's tokens that are no padding (for data without segments, to its
  rows).

  Attributes:
    objective: whose loss it accompanies.
    weights: name of a report -> its factor in the loss.
  """

  objective: Objective
  weights: Mapping[str, NonNegativeFloat]

  @property
  def splits(self) -> bool:
    """As the other objective has it."""
    return getattr(self.objective, "splits", True)

  def model_inputs(self, batch: Batch) -> tuple[Any, ...]:
    """Those of the other objective."""
    return self.objective.model_inputs(batch)

  def totals(self, batch: Batch) -> Any:
    """The other objective's, and the number of tokens or rows."""
    return self.objective.totals(batch), _count(batch)

  def loss(self, forward: Forward, batch: Batch, totals: Any) -> Outcome:
    """The other objective's outcome, whose loss is larger by the reports'."""
    of_other, count = totals
    found = self.objective.loss(forward, batch, of_other)
    share = _count(batch) / jnp.where(count > 0, count, 1.0)
    added = sum(factor * _mean(found.reports, name) for name, factor in self.weights.items())
    return found._replace(loss=found.loss + share * added)

  def empty_metrics(self) -> metrics.Collection:
    """That of the other objective."""
    return self.objective.empty_metrics()

  def summary(self, collection: Any) -> dict[str, Any]:
    """That of the other objective; reports are logged by the runner."""
    return self.objective.summary(collection)


def _count(batch: Batch) -> jax.Array:
  """Tokens that are no padding, float32 scalar; rows where the data have no segments."""
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
