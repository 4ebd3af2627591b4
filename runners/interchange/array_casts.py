"""Which finite numbers of an array another dtype makes infinite."""

import jax.numpy as jnp
import numpy as np


def overflowing(x: np.ndarray, dtype: np.dtype) -> float | None:
  """A finite element of `x` that is infinite in `dtype`; None where there is none.

  Args:
    x: of floats.
    dtype: of floats as well.
  """
  if x.dtype == dtype or jnp.finfo(dtype).max >= jnp.finfo(x.dtype).max:
    return None
  with np.errstate(over="ignore"):
    lost = np.isfinite(x) & ~np.isfinite(x.astype(dtype))
  return float(x[lost].flat[0]) if lost.any() else None
