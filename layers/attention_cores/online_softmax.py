"""Softmax attention over keys that come block by block, forward and backward.

Each block of keys updates (o, m, l): the unnormalised mean, the highest score and the sum of
weights (Milakov and Gimelshein, 2018, https://arxiv.org/abs/1805.02867; Dao et al., 2022,
https://arxiv.org/abs/2205.14135, algorithm 1). Given the output, the log of the sums and the
output's gradient, each block's gradients can be computed separately (the same, algorithm 4):

  e = exp(q k^T - lse),  ds = e (do v^T - delta),  delta = sum_h(do o)
  dq = ds k,  dk = ds^T q,  dv = e^T do

Letters: B batch, K key heads, T queries times query heads per key head, S keys, H head
dimension.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from layers.product import product
from layers.rematerialization import named

LOWEST = float(jnp.finfo(jnp.float32).min)


class Partial(NamedTuple):
  """The queries' attention to the keys seen so far.

  Attributes:
    mixed: [B, K, T, H] float32, sum of exp(score - highest) * value.
    highest: [B, K, T] float32.
    total: [B, K, T] float32, sum of exp(score - highest).
  """

  mixed: jax.Array
  highest: jax.Array
  total: jax.Array

  @classmethod
  def none(cls, shape: tuple[int, ...]) -> "Partial":
    """For queries [B, K, T, H] that have seen no key."""
    rows = shape[:-1]
    return cls(jnp.zeros(shape), jnp.full(rows, LOWEST), jnp.zeros(rows))

  def absorb(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    compute_dtype: str,
  ) -> "Partial":
    """The attention after one more block of keys.

    Args:
      query: [B, K, T, H], scaled.
      key, value: [B, K, S, H].
      allowed: bool, broadcasts to [B, K, T, S].
      compute_dtype: of the products' operands.
    """
    scores = product("bkth,bksh->bkts", query, key, compute_dtype)
    scores = jnp.where(allowed, scores, LOWEST)
    highest = jnp.maximum(self.highest, scores.max(axis=-1))
    # This second `where` is for rows that have seen nothing yet: exp(LOWEST - LOWEST) is 1.
    weights = jnp.where(allowed, jnp.exp(scores - highest[..., None]), 0.0)
    shrink = jnp.exp(self.highest - highest)
    mixed = product("bkts,bksh->bkth", weights, value, compute_dtype)
    return Partial(
      self.mixed * shrink[..., None] + mixed,
      highest,
      self.total * shrink + weights.sum(axis=-1),
    )

  def finish(self) -> tuple[jax.Array, jax.Array]:
    """The attention [B, K, T, H], and log sum exp of the scores [B, K, T].

    Queries that saw no key give 0, and a log that makes all their weights 0.
    """
    seen = self.total > 0
    total = jnp.where(seen, self.total, 1.0)
    log_sum = jnp.where(seen, self.highest + jnp.log(total), -LOWEST)
    return self.mixed / total[..., None], log_sum


def kept(mixed: jax.Array, log_sum: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
  """Attention and the log of its sums, to be kept for the backward pass in the products' dtype.

  Both are named (layers/rematerialization.py): a policy that keeps them saves attending again.
  """
  return named(mixed.astype(dtype), "attention"), named(log_sum, "attention")


class Gradients(NamedTuple):
  """Gradients of query [B, K, T, H], key and value [B, K, S, H]; float32."""

  query: jax.Array
  key: jax.Array
  value: jax.Array


def block_gradients(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  allowed: jax.Array,
  log_sum: jax.Array,
  gradient: jax.Array,
  delta: jax.Array,
  compute_dtype: str,
) -> Gradients:
  """The contribution of one block of keys to the gradients.

  Args:
    query, key, value, allowed: as for `Partial.absorb`.
    log_sum: [B, K, T], of the finished attention.
    gradient: [B, K, T, H], of its output.
    delta: [B, K, T], sum over H of gradient * output.
    compute_dtype: of the products' operands.
  """
  scores = product("bkth,bksh->bkts", query, key, compute_dtype)
  weights = jnp.where(allowed, jnp.exp(scores - log_sum[..., None]), 0.0)
  dweights = product("bkth,bksh->bkts", gradient, value, compute_dtype)
  dscores = weights * (dweights - delta[..., None])
  return Gradients(
    product("bkts,bksh->bkth", dscores, key, compute_dtype),
    product("bkts,bkth->bksh", dscores, query, compute_dtype),
    product("bkts,bkth->bksh", weights, gradient, compute_dtype),
  )
