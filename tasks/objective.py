"""The interface between runners and objectives; a new modality needs no change in runners/.

Letters: B batch.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from clu import metrics

from layers.errors import UserError
from layers.reports import Reports

Batch = Mapping[str, jax.Array]

# The runner adds this key to every batch (`with_rows`): [B] int32, the row's number in the
# global batch.
ROWS = "rows"


class Outcome(NamedTuple):
  """An objective's result for a (micro)batch.

  Attributes:
    loss: this (micro)batch's share of the loss, float32 scalar.
    metrics: its CLU collection.
    reports: the layers' reports from `forward`; `merged` if there were several calls.
    variables: the model's variables after the last call of `forward`.
  """

  loss: jax.Array
  metrics: Any
  reports: Reports
  variables: Any


class Answer(NamedTuple):
  """The result of one call of the model.

  Attributes:
    output: the model's output.
    reports: name -> a report by its layers (layers/reports.py).
    variables: collection -> values that its layers keep from step to step, after this call.
  """

  output: Any
  reports: Reports
  variables: Any

  def outcome(self, loss: jax.Array, metrics: metrics.Collection) -> Outcome:
    """The Outcome of an objective that called the model once; `loss` is a float32 scalar."""
    return Outcome(loss, metrics, self.reports, self.variables)


class Forward(Protocol):
  """The model on a (micro)batch, as the runner offers it to an objective.

  Attributes:
    params: the model's parameters, by which the loss is differentiated.
    rows: [B] int32, the number of each row in the global batch.
    training: False in evaluation: no dropout, and no variable changes.
  """

  params: Any
  rows: jax.Array
  training: bool

  def __call__(
    self, *inputs: Any, method: Any = None, params: Any = None, variables: Any = None
  ) -> Answer:
    """Calls the model.

    Args:
      inputs: the model's positional arguments.
      method: a method of the model; None: __call__.
      params: parameters to use instead of `params`, such as their average; None: `params`.
      variables: the variables from an earlier call, if the model is called more than once.
    """
    ...


class Objective(Protocol):
  """A loss that is a sum over examples, divided by totals that depend on the batch alone.

  The totals are known before the model runs, so the loss of a batch is the sum of its
  microbatches' losses, and likewise the gradients: no result depends on how the batch is split
  over time or devices.

  Attributes:
    splits: whether the loss is such a sum. If the loss or a layer compares examples with each
      other (contrastive losses, batch statistics), microbatches change the result: then set
      False, and a `microbatch_size` is refused.
  """

  splits: bool = True

  def model_inputs(self, batch: Batch) -> tuple[Any, ...]:
    """The model's positional arguments, which also serve to initialise its parameters."""
    ...

  def totals(self, batch: Batch) -> Any:
    """A pytree of scalars, summed over the batch, by which `loss` divides."""
    ...

  def loss(self, forward: Forward, batch: Batch, totals: Any) -> Outcome:
    """The loss of a (micro)batch, with its metrics, reports and variables.

    `totals` are of the whole batch. The metrics are of this (micro)batch; they are merged only
    by `Collection.merge`.
    """
    ...

  def empty_metrics(self) -> metrics.Collection:
    """The CLU collection of no batches, into which the first batch's is merged."""
    ...

  def summary(self, collection: Any) -> dict[str, Any]:
    """Name -> scalar to report, from the merged collection."""
    ...


def with_rows(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """The batch with ROWS added: int32 [B], each row's number in the global batch."""
  num_rows = next(iter(batch.values())).shape[0]
  return {**batch, ROWS: jnp.arange(num_rows, dtype=jnp.int32)}


def check_objective(objective: Objective, num_microbatches: int) -> None:
  """Raises UserError for an objective of an older form, or one that cannot use microbatches."""
  kind = type(objective).__name__
  loss: Callable[..., Any] = objective.loss
  if "forward" not in inspect.signature(loss).parameters:
    raise UserError(
      f"{kind}.loss is of an older form: it is called as loss(forward, batch, totals), where "
      "forward(*inputs) gives (output, reports, variables) and no longer the output alone, and "
      "returns an Outcome: answer = forward(...); return answer.outcome(loss, metrics)"
    )
  if num_microbatches > 1 and not getattr(objective, "splits", True):
    raise UserError(
      f"the loss of {kind} is one of the whole batch and no sum over microbatches: leave "
      "microbatch_size unset, or lower batch_size"
    )
