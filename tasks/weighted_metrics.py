"""CLU metrics from sums and weights: averages that merge exactly, however tokens are split."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from layers.reports import Report, Reports
from tasks.objective import Objective

C = TypeVar("C", bound=metrics.Collection)


def average(total: jax.Array | float, weight: jax.Array | float) -> metrics.Average:
  """The average total / weight (float32 scalars); merging adds totals and weights.

  CLU's own constructor takes a mask of zeros and ones instead of weights.
  """
  total, count = jnp.asarray(total, jnp.float32), jnp.asarray(weight, jnp.float32)
  # CLU's dataclass decorator hides the fields from type checkers.
  return metrics.Average(total=total, count=count)  # pyright: ignore[reportCallIssue]


def collect(kind: type[C], **averages: metrics.Metric) -> C:
  """A collection of class `kind` with these metrics, name -> metric."""
  return dataclasses.replace(kind.empty(), **averages)  # pyright: ignore[reportArgumentType, reportCallIssue, reportReturnType, reportUnknownVariableType]


def measured(objective: Objective, collection: Any) -> tuple[dict[str, float], list[str]]:
  """Name -> value that an objective reports, and the names without a value.

  A mean of nothing, 0 / 0, is left out: a batch whose loss weights are all zero does not mean
  that training diverged. A value's weight is found by the name that it has in `collection`,
  which holds sums on the host.
  """
  with np.errstate(divide="ignore", invalid="ignore"):
    summary = objective.summary(collection)
  weights = {name: getattr(getattr(collection, name, None), "count", 1) for name in summary}
  values = {name: float(np.asarray(x)) for name, x in summary.items() if weights[name] != 0}
  return values, [name for name in summary if name not in values]


def means(reports: Reports) -> tuple[dict[str, float], list[str]]:
  """Name -> mean of each report (sums on the host), and the names of reports without weight.

  A report [L] that keeps layers apart gives a number for each layer: `load/0`, `load/1`.
  """
  values: dict[str, float] = {}
  missing = []
  for name, one in reports.items():
    totals, weights = np.asarray(one.total), np.asarray(one.weight)
    if not weights.any():
      missing.append(name)
    for index in np.ndindex(totals.shape):
      if weights[index]:
        values["/".join([name, *map(str, index)])] = float(totals[index] / weights[index])
  return values, missing


def report_names(reports: Reports) -> list[str]:
  """The names that `means` gives for reports of these shapes."""
  ones: Any = {
    name: Report(*(np.ones(one.total.shape) for _ in range(2)))  # pyright: ignore[reportArgumentType]
    for name, one in reports.items()
  }
  return list(means(ones)[0])


def metric_names(objective: Objective) -> list[str]:
  """The names of all values that an objective can report."""
  values, names = measured(objective, jax.device_get(objective.empty_metrics()))
  return [*values, *names]
