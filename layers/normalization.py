"""Normalisation over the feature dimension, in float32 whatever the activations are."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import dtypes
from layers.dtypes import DType
from layers.ranges import PositiveFloat
from layers.sharding import partitioned_init


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
    dtype = dtypes.resolve(self.param_dtype)
    y = standardize(x.astype(jnp.float32), self.epsilon)
    ones = partitioned_init(nn.initializers.ones, "embed")
    y *= self.param("scale", ones, x.shape[-1:], dtype).astype(jnp.float32)
    if self.use_bias:
      zeros = partitioned_init(nn.initializers.zeros, "embed")
      y += self.param("bias", zeros, x.shape[-1:], dtype).astype(jnp.float32)
    return y.astype(x.dtype)


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
