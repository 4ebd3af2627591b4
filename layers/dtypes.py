"""Number formats by name, so that configs hold plain strings that print, diff and serialise."""

from typing import NewType

import jax.numpy as jnp

# A field annotated `DType` accepts one of NAMES; the command line checks it.
DType = NewType("DType", str)

# float16 would need loss scaling: gradients of a long batch vanish in it.
NAMES = ("float32", "bfloat16")


def resolve(name: str) -> jnp.dtype:
  """The dtype called `name`, one of NAMES."""
  if name not in NAMES:
    raise ValueError(f"unknown dtype {name!r}; expected one of {', '.join(NAMES)}")
  return jnp.dtype(name)
