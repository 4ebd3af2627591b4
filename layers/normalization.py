"""Normalisation over the feature dimension, in float32 whatever the activations are."""

import functools
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from layers import dtypes
from layers.dtypes import DType
from layers.ranges import PositiveFloat
from layers.sharding import partitioned_init, platform


class LayerNorm(nn.Module):
  """Layer normalisation (Ba et al., 2016, https://arxiv.org/abs/1607.06450, eq. 4).

  Attributes:
    epsilon: added to the variance.
    use_bias: whether there is a shift beside the scale.
    param_dtype: dtype in which scale and bias are kept.
  """

  epsilon: PositiveFloat = 1e-5
  use_bias: bool = True
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., D] gives the same shape and dtype."""
    dtype, bias = dtypes.resolve(self.param_dtype), None
    ones = partitioned_init(nn.initializers.ones, "embed")
    scale = self.param("scale", ones, x.shape[-1:], dtype).astype(jnp.float32)
    if self.use_bias:
      zeros = partitioned_init(nn.initializers.zeros, "embed")
      bias = self.param("bias", zeros, x.shape[-1:], dtype).astype(jnp.float32)
    if platform() != "cpu":
      return cast(jax.Array, _normalized(x, scale, bias, self.epsilon))
    y = standardize(x.astype(jnp.float32), self.epsilon) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


class RMSNorm(nn.Module):
  """Root mean square normalisation (Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467).

  x / sqrt(mean(x^2) + epsilon) * scale: eq. 4, with epsilon inside the root as LLaMA has it.

  Attributes:
    epsilon: added to the mean square.
    param_dtype: dtype in which the scale is kept.
  """

  epsilon: PositiveFloat = 1e-6
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., D] gives the same shape and dtype."""
    ones = partitioned_init(nn.initializers.ones, "embed")
    scale = self.param("scale", ones, x.shape[-1:], dtypes.resolve(self.param_dtype))
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.epsilon)
    return (y * scale.astype(jnp.float32)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: jax.Array, epsilon: float) -> jax.Array:
  """x [..., D] float32 with mean 0 and variance 1 (less epsilon) over the last dimension."""
  return _forward(x, epsilon)[0]


def _forward(x, epsilon):
  # Two passes: E[x^2] - E[x]^2 cancels badly when the mean is large.
  centred = x - x.mean(axis=-1, keepdims=True)
  scale = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
  y = centred * scale
  return y, (y, scale)


def _backward(epsilon, residuals, gradient):
  del epsilon
  y, scale = residuals
  mean = gradient.mean(axis=-1, keepdims=True)
  along = (gradient * y).mean(axis=-1, keepdims=True)
  return (scale * (gradient - mean - y * along),)


standardize.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalized(x, scale, bias, epsilon):
  """`standardize` with scale and bias (or None) of x [..., D], in its dtype, for accelerators.

  The backward pass reads x and two moments of a token, not float32 arrays of x's size.
  """
  return _normalize(x, scale, bias, epsilon)[0]


def _normalize(x, scale, bias, epsilon):
  exact = x.astype(jnp.float32)
  mean = checkpoint_name(exact.mean(axis=-1, keepdims=True), "moments")
  variance = jnp.square(exact - mean).mean(axis=-1, keepdims=True)
  inverse = checkpoint_name(jax.lax.rsqrt(variance + epsilon), "moments")
  y = (exact - mean) * inverse * scale
  return (y if bias is None else y + bias).astype(x.dtype), (x, mean, inverse, scale, bias)


def _normalize_backward(epsilon, residuals, gradient):
  del epsilon
  x, mean, inverse, scale, bias = residuals
  gradient = gradient.astype(jnp.float32)
  y, scaled = (x.astype(jnp.float32) - mean) * inverse, gradient * scale
  along = (scaled * y).mean(axis=-1, keepdims=True)
  dx = inverse * (scaled - scaled.mean(axis=-1, keepdims=True) - y * along)
  tokens = tuple(range(x.ndim - 1))
  dbias = None if bias is None else gradient.sum(tokens)
  return dx.astype(x.dtype), (gradient * y).sum(tokens), dbias


_normalized.defvjp(_normalize, _normalize_backward)
