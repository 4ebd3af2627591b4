"""What a runner asks of an objective, so that a new modality needs no change in runners/.

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
  """What an objective makes of a (micro)batch.

  Attributes:
    loss: this (micro)batch's share of the loss, float32 scalar.
    metrics: its CLU collection.
    reports: of the layers, as `forward` gave them; those of several calls `merged`.
    variables: of the model, as the last call of `forward` left them.
  """

  loss: jax.Array
  metrics: Any
  reports: Reports
  variables: Any


class Answer(NamedTuple):
  """What came of one call of the model.

  Attributes:
    output: the model's.
    reports: name -> what its layers said beside it (layers/reports.py).
    variables: collection -> what its layers keep from step to step, as this call left it.
  """

  output: Any
  reports: Reports
  variables: Any

  def outcome(self, loss: jax.Array, metrics: metrics.Collection) -> Outcome:
    """Of an objective that called the model once."""
    return Outcome(loss, metrics, self.reports, self.variables)


class Forward(Protocol):
  """The model on a (micro)batch, as the runner offers it to an objective.

  Attributes:
    params: of the model, those that the loss is differentiated by.
    rows: [B] int32, the number of each row in the global batch.
    training: False in evaluation, where there is no dropout and no variable changes.
  """

  params: Any
  rows: jax.Array
  training: bool

  def __call__(
    self, *inputs: Any, method: Any = None, params: Any = None, variables: Any = None
  ) -> Answer:
    """Calls the model.

    Args:
      inputs: its positional arguments.
      method: another of its methods than __call__.
      params: others than `params`, such as an average of them.
      variables: what an earlier call left, where the model is called more than once.
    """
    ...


class Objective(Protocol):
  """A loss that is a sum over examples, divided by totals that the batch alone decides.

  Because the totals are known before the model runs, the loss of a batch is the sum of the
  losses of its microbatches, and so are the gradients: nothing depends on how the batch is
  split, over time or over devices.

  Attributes:
    splits: whether that is so. A loss that compares examples with each other, or a model whose
      layers do, as batch statistics do, sees another problem in each microbatch: with
      splits = False it is refused together with a `microbatch_size`.
  """

  splits: bool = True

  def model_inputs(self, batch: Batch) -> tuple[Any, ...]:
    """The model's positional arguments, with which its parameters are made."""
    ...

  def totals(self, batch: Batch) -> Any:
    """A pytree of scalars summed over the batch: what the loss is divided by."""
    ...

  def loss(self, forward: Forward, batch: Batch, totals: Any) -> Outcome:
    """The loss of a (micro)batch of the batch that `totals` are of, and all that goes with it.

    The metrics are this (micro)batch's; they merge with others by `Collection.merge` alone.
    """
    ...

  def empty_metrics(self) -> metrics.Collection:
    """The collection to which the first batch's is merged."""
    ...

  def summary(self, collection: Any) -> dict[str, Any]:
    """What to report, name -> scalar."""
    ...


def with_rows(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """The batch with each row's number in the global batch."""
  num_rows = next(iter(batch.values())).shape[0]
  return {**batch, ROWS: jnp.arange(num_rows, dtype=jnp.int32)}


def check_objective(objective: Objective, num_microbatches: int) -> None:
  """Raises UserError for one of an older form, or one that would be cut and cannot be."""
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
