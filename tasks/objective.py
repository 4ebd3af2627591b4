"""What a runner asks of an objective, so that a new modality needs no change in runners/.

Letters: B batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from clu import metrics

Batch = Mapping[str, jax.Array]
Apply = Callable[..., Any]  # the model with its parameters and dropout bound

# The runner adds this key to every batch (`with_rows`): [B] int32, the row's number in the
# global batch.
ROWS = "rows"


class Objective(Protocol):
  """A loss that is a sum over examples, divided by totals that the batch alone decides.

  Because the totals are known before the model runs, the loss of a batch is the sum of the
  losses of its microbatches, and so are the gradients: nothing depends on how the batch is
  split, over time or over devices.
  """

  def model_inputs(self, batch: Batch) -> tuple[Any, ...]:
    """The model's positional arguments."""
    ...

  def totals(self, batch: Batch) -> Any:
    """A pytree of scalars summed over the batch: what the loss is divided by."""
    ...

  def loss(self, apply: Apply, batch: Batch, totals: Any) -> tuple[jax.Array, Any]:
    """This (micro)batch's share of the loss, float32 scalar, and its CLU collection."""
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
