"""Gathers kernels that are split over devices, and scatters their gradients.

For work that is split over devices by hand (`layers.sharding.per_device`). A kernel is rounded
before it travels; gradients are summed in float32.
"""

import jax

from layers import dtypes


def gathered(
  kernel: jax.Array, axes: tuple[str, ...], dimension: int, compute_dtype: str
) -> jax.Array:
  """The kernel in `compute_dtype`, gathered along a dimension split over mesh `axes`."""
  kernel = kernel.astype(dtypes.resolve(compute_dtype))
  return jax.lax.all_gather(kernel, axes, axis=dimension, tiled=True) if axes else kernel


def scattered(gradient: jax.Array, axes: tuple[str, ...], dimension: int) -> jax.Array:
  """The gradient of a gathered kernel, summed over devices; each keeps its own part."""
  if not axes:
    return gradient
  return jax.lax.psum_scatter(gradient, axes, scatter_dimension=dimension, tiled=True)
