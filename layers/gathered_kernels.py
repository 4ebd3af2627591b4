"""Kernels that each device has a part of, whole for as long as a device works with them.

For work that is split over devices by hand (`layers.sharding.per_device`): what is gathered is
rounded before it travels, and gradients are summed in float32 where they belong.
"""

import jax

from layers import dtypes


def gathered(
  kernel: jax.Array, axes: tuple[str, ...], dimension: int, compute_dtype: str
) -> jax.Array:
  """The kernel in `compute_dtype`, whole in a dimension that is split over mesh `axes`."""
  kernel = kernel.astype(dtypes.resolve(compute_dtype))
  return jax.lax.all_gather(kernel, axes, axis=dimension, tiled=True) if axes else kernel


def scattered(gradient: jax.Array, axes: tuple[str, ...], dimension: int) -> jax.Array:
  """The gradient of a whole kernel, summed over those who gathered it; each has its part."""
  if not axes:
    return gradient
  return jax.lax.psum_scatter(gradient, axes, scatter_dimension=dimension, tiled=True)
