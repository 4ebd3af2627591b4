"""CLU metrics from sums and weights: averages that merge exactly, however tokens were split."""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from clu import metrics

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
