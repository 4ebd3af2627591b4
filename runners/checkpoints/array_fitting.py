"""An array that was saved for one mesh, made to fit another.

The rows of a vocabulary are padded with zeros to a multiple of what the mesh divides them by,
so that the shape of what is saved depends on the mesh. Ids of the padding do not occur, and
their logits are masked: such rows can be cut off or added without changing what a model does.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def dividing(sharding: Any, shape: Sequence[int]) -> Any:
  """`sharding` without the mesh axes that do not divide a dimension of `shape`."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  spec = [*sharding.spec, *[None] * len(shape)]
  kept = [
    axes if size % _parts(sharding, axes) == 0 else None
    for size, axes in zip(shape, spec, strict=False)
  ]
  return NamedSharding(sharding.mesh, PartitionSpec(*kept), memory_kind=sharding.memory_kind)


def _parts(sharding: NamedSharding, axes: str | Sequence[str] | None) -> int:
  axes = (axes,) if isinstance(axes, str) else axes or ()
  return math.prod(sharding.mesh.shape[axis] for axis in axes)


def fit(x: jax.Array, wanted: Any) -> jax.Array:
  """`x` in the shape, dtype and place of `wanted`: cut off at the end, or zeros added there.

  No device ever holds more than its part of the result and of `x`.
  """
  if (x.shape, x.dtype) == (wanted.shape, wanted.dtype):
    return x
  resize = functools.partial(_resize, shape=tuple(wanted.shape), dtype=wanted.dtype)
  return jax.jit(resize, out_shardings=wanted.sharding)(x)


def _resize(x: jax.Array, *, shape: Sequence[int], dtype: Any) -> jax.Array:
  x = x[tuple(slice(size) for size in shape)]
  return jnp.pad(x, [(0, size - had) for size, had in zip(shape, x.shape, strict=True)]).astype(
    dtype
  )
