"""What an attention core is, and the reference: scores of all queries with all keys.

Letters: B batch, T query length, S key length, K key/value heads, H head dimension,
         N query heads, G = N / K query heads per key head.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from layers.attention_cores.masked_softmax import attend
from layers.dropout import Drop
from layers.masks import Mask, causal_mask
from layers.tokens import Tokens


class AttentionCore(Protocol):
  """How scores become a weighted mean: the replaceable heart of attention.

  Tokens of a segment stand next to each other, in the order of their positions; rows of padding
  are not compared. What of it the backward pass needs it names "attention"
  (layers/rematerialization.py). Of cuDNN's kernels the log of the sums cannot be named from
  outside: `CudnnAttention` attends again whoever keeps "attention".
  """

  def __call__(
    self,
    query: jax.Array,  # [B, T, N, H], not yet scaled
    key: jax.Array,  # [B, S, K, H]
    value: jax.Array,  # [B, S, K, H]
    query_tokens: Tokens,
    key_tokens: Tokens,
    *,
    mask: Mask,
    compute_dtype: str,
    drop_weights: Drop | None,  # of [B, ...] attention weights; None: no dropout
  ) -> jax.Array: ...  # [B, T, N, H] float32


def dense_attention(
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
  """The reference: every faster core must agree with it, forward and backward.

  softmax(q k^T / sqrt(H)) v with the softmax in float32 (Vaswani et al., 2017,
  https://arxiv.org/abs/1706.03762, eq. 1). A query that may see nothing gives 0, never NaN.

  Args:
    query: [B, T, N, H], not yet scaled.
    key, value: [B, S, K, H]; K divides N, query head n reads key head n // G.
    query_tokens, key_tokens: coordinates from which `mask` decides who attends to whom.
    mask: (query tokens, key tokens) -> [B, T, S], True where attention is allowed.
    compute_dtype: dtype of the products' operands.
    drop_weights: dropout of the attention weights, a function of [B, K, G * T, S].

  Returns:
    [B, T, N, H] float32.
  """
  B, T, N, H = query.shape
  S, K = key.shape[1:3]
  G = N // K
  # Heads first and groups folded into the length: plain batched matrix products.
  query = query.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(B * K, G * T, H)
  key = key.transpose(0, 2, 1, 3).reshape(B * K, S, H)
  value = value.transpose(0, 2, 1, 3).reshape(B * K, S, H)
  allowed = mask(query_tokens, key_tokens)[:, None, None]
  allowed = jnp.broadcast_to(allowed, (B, K, G, T, S)).reshape(B * K, G * T, S)
  kept = None
  if drop_weights is not None:
    kept = drop_weights(jnp.ones((B, K, G * T, S))).reshape(B * K, G * T, S)
  mixed = attend(query * H**-0.5, key, value, allowed, kept, compute_dtype)
  return mixed.reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
