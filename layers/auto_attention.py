"""The attention core that suits the platform, the mesh and the length.

Letters: T query length, S key length.
"""

import functools

import jax
from absl import logging

from layers.attention import AttentionCore, dense_attention
from layers.blockwise_attention import BlockwiseAttention
from layers.dropout import Drop
from layers.masks import Mask, causal_mask
from layers.ring_attention import RingAttention
from layers.sharding import axis_devices
from layers.tokens import Tokens

# Below so many scores of one head, all of them at once are faster than block by block.
_FEW_SCORES = 1024 * 1024


def auto_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
  *,
  mask: Mask = causal_mask,
  compute_dtype: str = "float32",
  drop_weights: Drop | None = None,
) -> jax.Array:
  """See `AttentionCore`. Logs what it chose, once for each choice.

  Dense where weights are dropped or few; a ring where the rows are split over devices;
  blockwise everywhere else.
  """
  core = _choose(query.shape[1], key.shape[1], drop_weights is not None)
  return core(
    query,
    key,
    value,
    query_tokens,
    key_tokens,
    mask=mask,
    compute_dtype=compute_dtype,
    drop_weights=drop_weights,
  )


def _choose(num_queries: int, num_keys: int, drops_weights: bool) -> AttentionCore:
  _, ring_size = axis_devices("length")
  if drops_weights:
    return _said("dense_attention", "the only core that drops weights", dense_attention)
  if ring_size > 1 and num_queries == num_keys:
    why = f"rows of {num_queries} tokens lie on {ring_size} devices"
    return _said("RingAttention", why, RingAttention())
  if num_queries * num_keys <= _FEW_SCORES:
    why = f"{num_queries} x {num_keys} scores are few"
    return _said("dense_attention", why, dense_attention)
  why = f"{num_queries} x {num_keys} scores of a head at once take too much memory"
  return _said("BlockwiseAttention", why, BlockwiseAttention())


def _said(name: str, why: str, core: AttentionCore) -> AttentionCore:
  _say(name, why)
  return core


@functools.cache
def _say(name: str, why: str) -> None:
  logging.warning("Attention is %s: %s.", name, why)
