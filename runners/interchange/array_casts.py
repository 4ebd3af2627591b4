"""Finds finite numbers that a cast to another dtype would make infinite."""

import jax.numpy as jnp
import numpy as np


def overflowing(x: np.ndarray, dtype: np.dtype) -> float | None:
  """A finite element of `x` that becomes infinite in `dtype`, or None; both are float types."""
  if x.dtype == dtype or jnp.finfo(dtype).max >= jnp.finfo(x.dtype).max:
    return None
  with np.errstate(over="ignore"):
    lost = np.isfinite(x) & ~np.isfinite(x.astype(dtype))
  return float(x[lost].flat[0]) if lost.any() else None
