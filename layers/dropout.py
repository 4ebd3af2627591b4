"""Dropout that depends only on (seed, step, layer, global row).

Letters: B batch.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from layers.errors import UserError
from layers.ranges import FractionBelowOne


def check_rate(rate: float) -> None:
  """Raises UserError unless `rate` is a probability below 1."""
  if not 0.0 <= rate < 1.0:
    raise UserError(f"dropout_rate={rate} must be at least 0 and less than 1")


def drop(x: jax.Array, rate: float, key: jax.Array, rows: jax.Array) -> jax.Array:
  """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

  Each row draws from its own key, folded from its number in the global batch: neither the
  mesh nor the split into microbatches changes the mask.

  Args:
    x: [B, ...].
    rate: in [0, 1).
    key: random key of this layer and step.
    rows: [B] int32.
  """
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1.0 - rate, x.shape[1:]))(keys)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


@flax.struct.dataclass
class Drop:
  """`drop` with all but its array, to be handed on to who has that: called with [B, ...]."""

  rate: float = flax.struct.field(pytree_node=False)
  key: jax.Array
  rows: jax.Array

  def __call__(self, x: jax.Array) -> jax.Array:
    return drop(x, self.rate, self.key, self.rows)


class Dropout(nn.Module):
  """`drop` with the key of the "dropout" collection; without that key, the identity.

  Training passes the key, evaluation does not: there is no flag to forget.
  """

  rate: FractionBelowOne

  @nn.compact
  def __call__(self, x: jax.Array, rows: jax.Array) -> jax.Array:
    check_rate(self.rate)
    if self.rate == 0.0 or not self.has_rng("dropout"):
      return x
    return drop(x, self.rate, self.make_rng("dropout"), rows)
