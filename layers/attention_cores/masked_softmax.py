"""Softmax attention of one head, with a backward pass of its own.

Letters: N batch times heads, T query length, S key length, H head dimension.

With unnormalised weights e = exp(q k^T - max), their sums l and o = e v / l, the gradients are
(Dao et al., 2022, https://arxiv.org/abs/2205.14135, appendix B.2)

  g = do / l,  delta = sum_h(g o),  ds = e (g v^T - delta)
  dq = ds k,  dk = ds^T q,  dv = e^T g

so neither pass divides a [T, S] matrix, and the backward pass sums over none.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp

from layers import dtypes
from layers.product import product
from layers.rematerialization import named


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  allowed: jax.Array,
  kept: jax.Array | None,
  compute_dtype: str,
) -> jax.Array:
  """softmax(query key^T) value where allowed.

  Args:
    query: [N, T, H], scaled.
    key, value: [N, S, H].
    allowed: [N, T, S] bool. A row with no True gives 0.
    kept: [N, T, S] factors on the weights after the softmax (dropout), or None.
    compute_dtype: of the products' operands.

  Returns:
    [N, T, H] float32.
  """
  return cast(jax.Array, _attend(query, key, value, allowed, kept, compute_dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, allowed, kept, compute_dtype):
  return _forward(query, key, value, allowed, kept, compute_dtype)[0]


def _forward(query, key, value, allowed, kept, compute_dtype):
  dtype = dtypes.resolve(compute_dtype)
  operands = tuple(x.astype(dtype) for x in (query, key, value))
  scores = product("nth,nsh->nts", operands[0], operands[1], compute_dtype)
  scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
  highest = scores.max(axis=-1, keepdims=True)
  weights = jnp.exp(scores - highest)
  may_attend = highest > jnp.finfo(jnp.float32).min
  sums = jnp.where(may_attend, weights.sum(axis=-1, keepdims=True), jnp.inf)
  weights = weights.astype(dtype)
  mixed = product("nts,nsh->nth", _times(weights, kept), operands[2], compute_dtype) / sums
  mixed = named(mixed, "attention")
  # Empty arrays that carry the inputs' dtypes.
  like = tuple(jnp.empty(0, x.dtype) for x in (query, key, value))
  return mixed, (*operands, weights, kept, sums, mixed, like)


def _backward(compute_dtype, residuals, gradient):
  query, key, value, weights, kept, sums, mixed, like = residuals
  gradient = gradient / sums
  delta = (gradient * mixed).sum(axis=-1, keepdims=True)
  dweights = product("nth,nsh->nts", gradient, value, compute_dtype)
  # Weights are 0 where attention is not allowed, except in rows that may attend to nothing;
  # there the infinite sum has made gradient and delta 0.
  dscores = weights * (_times(dweights, kept) - delta)
  dquery = product("nts,nsh->nth", dscores, key, compute_dtype)
  dkey = product("nts,nth->nsh", dscores, query, compute_dtype)
  dvalue = product("nts,nth->nsh", _times(weights, kept), gradient, compute_dtype)
  gradients = (dquery, dkey, dvalue)
  return *(x.astype(y.dtype) for x, y in zip(gradients, like, strict=True)), None, None


def _times(x: jax.Array, factors: jax.Array | None) -> jax.Array:
  return x if factors is None else x * factors


_attend.defvjp(_forward, _backward)
