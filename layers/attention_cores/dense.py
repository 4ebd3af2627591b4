"""The interface of attention cores, and the reference: scores of all queries with all keys.

Letters: B batch, T query length, S key length, K key/value heads, H head dimension,
         N query heads, G = N / K query heads per key head.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from layers.attention_cores.masked_softmax import attend
from layers.attention_cores.request import AttentionRequest


class AttentionCore(Protocol):
  """How scores become a weighted mean: the replaceable heart of attention.

  Tokens of a segment are contiguous, in the order of their positions. Outputs at padding do not
  matter. A core gives the name "attention" to the values that its backward pass needs
  (layers/rematerialization.py), or has a kernel that is known there.
  """

  def __call__(self, request: AttentionRequest, /) -> jax.Array:
    """[B, T, N, H] float32."""
    ...


def dense_attention(request: AttentionRequest) -> jax.Array:
  """The reference: every faster core must agree with it, forward and backward.

  softmax(q k^T / sqrt(H)) v with the softmax in float32 (Vaswani et al., 2017,
  https://arxiv.org/abs/1706.03762, eq. 1). A query that may see no key gives 0, never NaN.
  `drop_weights` gets the weights as [B, K, G * T, S].

  Returns:
    [B, T, N, H] float32.
  """
  query, key, value, query_tokens, key_tokens = request.operands
  B, T, N, H = query.shape
  S, K = key.shape[1:3]
  G = N // K
  # Heads first and groups folded into the length: plain batched matrix products.
  query = query.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B * K, G * T, H)
  key = key.transpose(0, 2, 1, 3).reshape(B * K, S, H)
  value = value.transpose(0, 2, 1, 3).reshape(B * K, S, H)
  allowed = request.mask(query_tokens, key_tokens)[:, None, None]
  allowed = jnp.broadcast_to(allowed, (B, K, G, T, S)).reshape(B * K, G * T, S)
  kept = None
  if request.drop_weights is not None:
    kept = request.drop_weights(jnp.ones((B, K, G * T, S))).reshape(B * K, G * T, S)
  mixed = attend(query * H**-0.5, key, value, allowed, kept, request.compute_dtype)
  return mixed.reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
