"""Grouped-query attention (Ainslie et al., 2023, https://arxiv.org/abs/2305.13245).

Letters: B batch, T query length, S key length, K key/value heads, H head dimension,
         N query heads, D model dimension.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from layers import cache, initializers
from layers.attention_cores.dense import AttentionCore, dense_attention
from layers.attention_cores.request import AttentionRequest, attend_with
from layers.dropout import Drop, check_rate
from layers.dtypes import DType
from layers.errors import UserError
from layers.masks import Mask, causal_mask, reach
from layers.projection import Projection
from layers.ranges import FractionBelowOne, NonNegativeFloat, PositiveInt
from layers.rematerialization import named
from layers.sharding import constrain
from layers.tokens import Tokens

Turn = Callable[[jax.Array, jax.Array], jax.Array]  # (heads, positions) -> heads


class Attention(nn.Module):
  """Self-attention with grouped heads around a replaceable core.

  Attributes:
    num_heads: query heads N.
    num_kv_heads: key and value heads K, a divisor of N; None means N (multi-head).
    head_dim: H; None means D / N.
    core: an AttentionCore.
    mask: who may attend to whom.
    rotary: turns queries and keys by their positions (layers/rotary.py); None: the model
      handles positions in another way.
    use_bias: biases on all four projections.
    dropout_rate: of the attention weights.
    init_stddev: of all four kernels' initial values.
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
    request = AttentionRequest(
      *(query, key, value, tokens, key_tokens),
      mask=self.mask,
      compute_dtype=self.compute_dtype,
      drop_weights=self._drop_weights(tokens),
    )
    mixed = self._attend(request).astype(x.dtype)
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

  def _attend(self, request: AttentionRequest) -> jax.Array:
    """The core's answer; while parameters are made, anything of that shape."""
    if not self.is_initializing():
      return attend_with(self.core, request)
    # Traced and discarded: the core may refuse the request, but makes no kernel.
    jax.eval_shape(lambda: attend_with(self.core, request))
    return request.query

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
    return Drop(self.dropout_rate, key, tokens.rows)
