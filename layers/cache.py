"""Keeps keys and values of earlier tokens, so that generation computes each once.

A token's slot is its position: a row's cache has a slot for each position from 0 on. A query at
position p sees only slots 0 .. p (masks.causal_mask), which are all filled if tokens come in
order. So the cache need not store which slots are filled, rows of different lengths do not
disturb each other, and padding leaves no trace.

A model applied with `mutable=["cache"]` uses the given cache, and returns it with the new
tokens in it. Each row holds one segment, numbered 1, and the mask must not see ahead.

Letters: B batch, T new tokens, S slots, K key/value heads, H head dimension.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import dtypes
from layers.errors import UserError
from layers.sharding import constrain
from layers.tokens import Tokens

COLLECTION = "cache"


def in_use(module: nn.Module) -> bool:
  """Whether `module` is applied with a cache, which training never uses."""
  return module.is_mutable_collection(COLLECTION) and not module.is_initializing()


def empty_cache(
  model: nn.Module, params: Any, num_rows: int, num_slots: int, kept: Any = None
) -> Any:
  """The variables to pass with the parameters to the first call: {"cache": zeros}.

  Args:
    model: called as (ids, tokens).
    params: its parameters, or their shapes.
    num_rows: B.
    num_slots: S, the number of positions that will be used.
    kept: collection -> what the model keeps beside its parameters.

  Raises:
    UserError: no layer of the model keeps keys and values.
  """
  ids = jnp.zeros((num_rows, 1), jnp.int32)

  def one_slot(params: Any) -> Any:
    tokens = Tokens.unpacked(num_rows, 1)
    variables = {**(kept or {}), "params": params}
    return model.apply(variables, ids, tokens, mutable=[COLLECTION])[1]

  shapes = jax.eval_shape(one_slot, params)
  if not jax.tree.leaves(shapes):
    raise UserError(
      "no layer of this model keeps a cache; its attention has to use layers.cache"
    )
  # [..., B, S, K, H]; stacked layers have leading axes.
  grown = lambda x: jnp.zeros((*x.shape[:-3], num_slots, *x.shape[-2:]), x.dtype)
  return jax.tree.map(grown, shapes)


def remember(
  module: nn.Module, key: jax.Array, value: jax.Array, tokens: Tokens, dtype: str
) -> tuple[jax.Array, jax.Array, Tokens]:
  """Puts new keys and values into the module's cache, and returns all of it for attention.

  Without a cache, the new keys and values become it, a slot for each token; `empty_cache`
  learns the shapes this way.

  Args:
    module: an attention layer, during its call.
    key, value: [B, T, K, H].
    tokens: of the T tokens; padding is not kept.
    dtype: of the cache; with the products' dtype nothing is lost.

  Returns:
    Keys and values [B, S, K, H] and the coordinates of their slots.
  """
  new = {"key": key, "value": value}
  kept = {name: x.astype(dtypes.resolve(dtype)) for name, x in new.items()}
  if module.has_variable(COLLECTION, "key"):
    cache = {name: module.get_variable(COLLECTION, name) for name in kept}
    num_slots = cache["key"].shape[1]
    slots = jnp.where(tokens.segments > 0, tokens.positions, num_slots)
    kept = {name: _write(cache[name], slots, x) for name, x in kept.items()}
  for name, x in kept.items():
    module.put_variable(COLLECTION, name, x)
  num_rows, num_slots = kept["key"].shape[:2]
  return kept["key"], kept["value"], Tokens.unpacked(num_rows, num_slots)


def _write(cache: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
  """cache [B, S, K, H] with new [B, T, K, H] in slots [B, T]; slot S drops the token."""
  write = lambda row, slots, new: row.at[slots].set(new, mode="drop")
  return constrain(
    jax.vmap(write)(cache, slots, new), "batch", "cache_length", "activation_kv_heads", None
  )
