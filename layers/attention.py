"""Grouped-query attention (Ainslie et al., 2023, https://arxiv.org/abs/2305.13245).

Letters: B batch, T query length, S key length, K key/value heads, H head dimension,
         N query heads, G = N / K query heads per key head, D model dimension.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import cache, initializers
from layers.dropout import Drop, check_rate, drop
from layers.dtypes import DType
from layers.errors import UserError
from layers.masked_softmax import attend
from layers.masks import Mask, causal_mask, reach
from layers.projection import Projection
from layers.ranges import FractionBelowOne, NonNegativeFloat, PositiveInt
from layers.rematerialization import named
from layers.sharding import constrain
from layers.tokens import Tokens

Turn = Callable[[jax.Array, jax.Array], jax.Array]  # (heads, positions) -> heads


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


class Attention(nn.Module):
  """Self-attention with grouped heads around a replaceable core.

  Attributes:
    num_heads: query heads N.
    num_kv_heads: key and value heads K, a divisor of N; None means N (multi-head).
    head_dim: H; None means D / N.
    core: an AttentionCore.
    mask: who may attend to whom.
    rotary: turns queries and keys by their positions (layers/rotary.py); None: the model knows
      positions in another way.
    use_bias: biases on all four projections.
    dropout_rate: of the attention weights.
    init_stddev: of all four kernels at first.
    residual_depth: see `initializers.residual`; derived from the model's depth.
    compute_dtype, param_dtype: see Projection.
  """

  num_heads: PositiveInt
  num_kv_heads: PositiveInt | None = None
  head_dim: PositiveInt | None = None
  core: AttentionCore = dense_attention
  mask: Mask = causal_mask
  rotary: Turn | None = None
  use_bias: bool = True
  dropout_rate: FractionBelowOne = 0.0
  init_stddev: NonNegativeFloat = 0.02
  residual_depth: PositiveInt | None = None
  compute_dtype: DType = DType("float32")
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    """x [B, T, D] gives [B, T, D]."""
    num_kv_heads, head_dim = self._head_shape(x.shape[-1])
    query = self._heads(x, "query", self.num_heads, head_dim, "heads")
    key = self._heads(x, "key", num_kv_heads, head_dim, "kv_heads")
    value = self._heads(x, "value", num_kv_heads, head_dim, "kv_heads")
    if self.rotary is not None:
      query, key = self.rotary(query, tokens.positions), self.rotary(key, tokens.positions)
    query, key, value = named(query, "query"), named(key, "key"), named(value, "value")
    key_tokens = tokens
    if cache.in_use(self):
      if reach(self.mask).ahead != 0:
        name = getattr(self.mask, "__name__", self.mask)
        raise UserError(
          f"attention.mask={name} sees, or may see, tokens to come, which are not there while "
          "text is generated: that takes causal_mask, a SlidingWindow, or a mask whose `reach` "
          "says that it sees none ahead (layers/masks.py)"
        )
      key, value, key_tokens = cache.remember(self, key, value, tokens, self.compute_dtype)
    mixed = self._attend(query, key, value, tokens, key_tokens).astype(x.dtype)
    mixed = constrain(mixed, "batch", "length", "activation_heads", None)
    return Projection(
      features=x.shape[-1:],
      input_axes=("heads", "head_dim"),
      output_axes=("embed",),
      init=initializers.residual(self.init_stddev, self.residual_depth),
      use_bias=self.use_bias,
      compute_dtype=self.compute_dtype,
      param_dtype=self.param_dtype,
      name="out",
    )(mixed)

  def _attend(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_tokens: Tokens,
    key_tokens: Tokens,
  ) -> jax.Array:
    """What the core gives; while parameters are made, anything of that shape."""
    core = functools.partial(
      self.core,
      mask=self.mask,
      compute_dtype=self.compute_dtype,
      drop_weights=self._drop_weights(query_tokens),
    )
    if not self.is_initializing():
      return core(query, key, value, query_tokens, key_tokens)
    # Traced apart and thrown away: it may refuse what is asked, but makes no kernel.
    asked = lambda q, k, v, tokens: core(q, k, v, tokens, tokens)
    jax.eval_shape(asked, query, key, value, query_tokens)
    return query

  def _head_shape(self, model_dim: int) -> tuple[int, int]:
    num_kv_heads = self.num_kv_heads or self.num_heads
    if self.num_heads % num_kv_heads:
      raise UserError(
        f"num_kv_heads={num_kv_heads} does not divide num_heads={self.num_heads}; "
        "choose a divisor"
      )
    if self.head_dim is None and model_dim % self.num_heads:
      raise UserError(
        f"num_heads={self.num_heads} does not divide model_dim={model_dim}; "
        "choose a divisor, or set head_dim"
      )
    return num_kv_heads, self.head_dim or model_dim // self.num_heads

  def _heads(self, x: jax.Array, name: str, count: int, head_dim: int, axis: str) -> jax.Array:
    heads = Projection(
      features=(count, head_dim),
      input_axes=("embed",),
      output_axes=(axis, "head_dim"),
      init=initializers.normal(self.init_stddev),
      use_bias=self.use_bias,
      compute_dtype=self.compute_dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)
    return constrain(heads, "batch", "length", f"activation_{axis}", None)

  def _drop_weights(self, tokens: Tokens) -> Drop | None:
    check_rate(self.dropout_rate)
    if self.dropout_rate == 0.0 or not self.has_rng("dropout"):
      return None
    key = self.make_rng("dropout")
    return lambda weights: drop(weights, self.dropout_rate, key, tokens.rows)
