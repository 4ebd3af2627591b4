"""CLU metrics from sums and weights: averages that merge exactly, however tokens were split."""

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
  """total / weight in the end; merging adds the totals and adds the weights, in float32.

  CLU's own constructor takes a mask of zeros and ones, not weights.
  """
  total, count = jnp.asarray(total, jnp.float32), jnp.asarray(weight, jnp.float32)
  # CLU's dataclass decorator hides the fields from type checkers.
  return metrics.Average(total=total, count=count)  # pyright: ignore[reportCallIssue]


def collect(kind: type[C], **averages: metrics.Metric) -> C:
  """A collection of class `kind` with these metrics."""
  return dataclasses.replace(kind.empty(), **averages)  # pyright: ignore[reportArgumentType, reportCallIssue, reportReturnType, reportUnknownVariableType]


def measured(objective: Objective, collection: Any) -> tuple[dict[str, float], list[str]]:
  """What an objective reports of sums on the host, and the names that have nothing to report.

  The mean of nothing, 0 / 0, is no number to log: a batch in which every loss weight is zero is
  no batch on which training diverged. Which sums a value is the mean of is known by its name.
  """
  with np.errstate(divide="ignore", invalid="ignore"):
    summary = objective.summary(collection)
  weights = {name: getattr(getattr(collection, name, None), "count", 1) for name in summary}
  values = {name: float(np.asarray(x)) for name, x in summary.items() if weights[name] != 0}
  return values, [name for name in summary if name not in values]


def means(reports: Reports) -> tuple[dict[str, float], list[str]]:
  """What was reported, as sums on the host, and the names of which nothing was.

  Of a report [L] that keeps the layers apart each layer has its number: `load/0`, `load/1`.
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
  """The names under which `means` gives what has these shapes."""
  ones: Any = {
    name: Report(*(np.ones(one.total.shape) for _ in range(2)))  # pyright: ignore[reportArgumentType]
    for name, one in reports.items()
  }
  return list(means(ones)[0])


def metric_names(objective: Objective) -> list[str]:
  """What an objective reports where there is something to report."""
  values, names = measured(objective, jax.device_get(objective.empty_metrics()))
  return [*values, *names]
