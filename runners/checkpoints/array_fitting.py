"""Makes an array that was saved on one mesh fit another.

Vocabulary rows are padded with zeros until the mesh divides them, so a saved shape depends on
the mesh. No token has a padding id, and padding logits are masked: cutting such rows off or
adding them does not change what a model computes.
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
  """`x` with the shape, dtype and sharding of `wanted`: cut, or zero-padded, at its end.

  A device never holds more than its own parts of `x` and of the result.
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
