"""The position-wise half of a block.

Letters: B batch, T length, D model dimension, F hidden dimension.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from layers import initializers
from layers.chunked_feed_forward import feed_forward_in_chunks
from layers.dtypes import DType
from layers.errors import UserError
from layers.projection import Projection
from layers.ranges import NonNegativeFloat, PositiveInt
from layers.rematerialization import named
from layers.sharding import constrain
from layers.tokens import Tokens


def gelu_tanh(x: jax.Array) -> jax.Array:
  """The tanh form of GELU that GPT-2 uses (https://arxiv.org/abs/1606.08415, section 2)."""
  return jax.nn.gelu(x, approximate=True)


def gelu_exact(x: jax.Array) -> jax.Array:
  """x * Phi(x) by the error function (https://arxiv.org/abs/1606.08415, section 2)."""
  return jax.nn.gelu(x, approximate=False)


class GatedFeedForward(nn.Module):
  """down(activation(gate(x)) * up(x)): SwiGLU (Shazeer, 2020, https://arxiv.org/abs/2002.05202).

  Attributes:
    hidden_dim: F.
    activation: of the gate; silu makes it SwiGLU, GELU makes it GEGLU.
    use_bias: biases on all three projections.
    chunk: tokens on a device whose hidden activations exist at a time; None: all tokens.
    residual_depth: see `initializers.residual`; derived from the model's depth.
    compute_dtype, param_dtype: see Projection.
  """

  hidden_dim: PositiveInt
  activation: Callable[[jax.Array], jax.Array] = nn.silu
  use_bias: bool = False
  chunk: PositiveInt | None = None
  init_stddev: NonNegativeFloat = 0.02
  residual_depth: PositiveInt | None = None
  compute_dtype: DType = DType("float32")
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    """x [B, T, D] gives [B, T, D]; `tokens` is for kinds that route by segment."""
    del tokens
    combine = lambda gate, up: self.activation(gate) * up
    return _transform(self, x, self.hidden_dim, ("gate", "up"), combine)


class FeedForward(nn.Module):
  """D -> F, a nonlinearity, F -> D.

  Attributes:
    hidden_dim: F; None means 4 * D.
    activation: the nonlinearity.
    use_bias: biases on both projections.
    chunk: see GatedFeedForward.
    residual_depth: see `initializers.residual`; derived from the model's depth.
    compute_dtype, param_dtype: see Projection.
  """

  hidden_dim: PositiveInt | None = None
  activation: Callable[[jax.Array], jax.Array] = gelu_tanh
  use_bias: bool = True
  chunk: PositiveInt | None = None
  init_stddev: NonNegativeFloat = 0.02
  residual_depth: PositiveInt | None = None
  compute_dtype: DType = DType("float32")
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    """x [B, T, D] gives [B, T, D]; `tokens` is for kinds that route by segment."""
    del tokens
    return _transform(self, x, self.hidden_dim or 4 * x.shape[-1], ("up",), self.activation)


def _transform(
  layer: FeedForward | GatedFeedForward,
  x: jax.Array,
  hidden_dim: int,
  names: tuple[str, ...],
  combine: Callable[..., jax.Array],
) -> jax.Array:
  """x [B, T, D] projected to F by each of `names`, combined, and projected back: [B, T, D]."""
  if layer.chunk is not None and layer.chunk < 1:
    raise UserError(f"feed_forward.chunk={layer.chunk}: a chunk has at least one token")
  if layer.chunk is None or layer.is_initializing():
    hidden = combine(*(_widen(layer, x, hidden_dim, name) for name in names))
    return _narrow(layer, hidden, x.shape[-1])
  params = nn.unbox(layer.variables["params"])
  return feed_forward_in_chunks(x, params, names, combine, layer.chunk, layer.compute_dtype)


def _widen(
  layer: FeedForward | GatedFeedForward, x: jax.Array, hidden_dim: int, name: str
) -> jax.Array:
  """x [B, T, D] gives [B, T, F]."""
  widened = Projection(
    features=(hidden_dim,),
    input_axes=("embed",),
    output_axes=("mlp",),
    init=initializers.normal(layer.init_stddev),
    use_bias=layer.use_bias,
    compute_dtype=layer.compute_dtype,
    param_dtype=layer.param_dtype,
    name=name,
  )(x)
  return named(widened, name)


def _narrow(
  layer: FeedForward | GatedFeedForward, hidden: jax.Array, model_dim: int
) -> jax.Array:
  """hidden [B, T, F] gives [B, T, D]."""
  hidden = named(constrain(hidden, "batch", "length", "activation_mlp"), "hidden")
  return Projection(
    features=(model_dim,),
    input_axes=("mlp",),
    output_axes=("embed",),
    init=initializers.residual(layer.init_stddev, layer.residual_depth),
    use_bias=layer.use_bias,
    compute_dtype=layer.compute_dtype,
    param_dtype=layer.param_dtype,
    name="down",
  )(hidden)
