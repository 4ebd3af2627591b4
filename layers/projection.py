"""The dense projection that every layer uses: one kernel, any number of features.

Letters: D input features, F output features (all of the output dimensions, folded).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import dtypes
from layers.dtypes import DType
from layers.product import leaving, project
from layers.sharding import partitioned_init


class Projection(nn.Module):
  """Contracts the last `num_input_axes` dimensions of x with a kernel, and adds a bias.

  Attributes:
    features: the output dimensions, for example (num_heads, head_dim).
    input_axes, output_axes: the logical names of the kernel's dimensions.
    init: of the kernel, called with its folded shape [D, F], which gives the right fan-in.
    use_bias: adds a bias of shape `features`, zero at first.
    compute_dtype: dtype of the operands of the product; see layers/product.py.
    param_dtype: dtype in which kernel and bias are kept.
  """

  features: tuple[int, ...]
  input_axes: tuple[str, ...]
  output_axes: tuple[str, ...]
  init: nn.initializers.Initializer
  use_bias: bool = True
  compute_dtype: DType = DType("float32")
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., *inputs] gives [..., *features] in x's dtype."""
    split = x.ndim - len(self.input_axes)
    inputs = x.shape[split:]
    folded = (math.prod(inputs), math.prod(self.features))
    dtype = dtypes.resolve(self.param_dtype)
    kernel = self.param(
      "kernel",
      partitioned_init(
        lambda key: self.init(key, folded, dtype).reshape(*inputs, *self.features),
        *self.input_axes,
        *self.output_axes,
      ),
    )
    flat = x.reshape(*x.shape[:split], -1)
    y = project(flat, kernel.reshape(folded), self.compute_dtype, leaving(x.dtype))
    y = y.reshape(*x.shape[:split], *self.features)
    if self.use_bias:
      bias_init = partitioned_init(nn.initializers.zeros, *self.output_axes)
      bias = self.param("bias", bias_init, self.features, dtype)
      y = y.astype(jnp.float32) + bias.astype(jnp.float32)
    return y.astype(x.dtype)
