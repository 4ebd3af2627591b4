"""Whether arrays are finite: names the ones with a NaN or an infinity before they are saved."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runners.checkpoints.checksums import is_on_host

_VALUES_AT_ONCE = 2**18  # so that a block stays in the CPU's cache


def non_finite(
  arrays: Mapping[str, Any], may_be_infinite: Callable[[], Collection[str]] = frozenset
) -> tuple[list[str], list[str]]:
  """Names of jax or numpy arrays that are not finite: those at fault, and those allowed to be.

  Every process has to call it with the same arrays.

  Args:
    arrays: name -> array.
    may_be_infinite: gives the names of arrays that may hold infinities (never NaN); called
      only if an array is not finite.
  """
  found = _found(arrays)
  allowed = set(found).intersection(may_be_infinite()) if found else set()
  right = [name for name in found if name in allowed and not jnp.isnan(arrays[name]).any()]
  return [name for name in found if name not in right], right


def _found(arrays: Mapping[str, Any]) -> list[str]:
  floats = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
  if all(map(is_on_host, floats.values())):
    return [name for name, x in floats.items() if not all(map(_is_finite, _parts(x)))]
  are_finite = jax.device_get(_are_finite(floats))
  return [name for name in floats if not are_finite[name]]


def count_non_finite(x: np.ndarray) -> int:
  """How many values of an array of any dtype are NaN or infinite."""
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return 0
  return sum(int(block.size - np.isfinite(block).sum()) for block in _blocks(x))


@jax.jit
def _are_finite(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {name: jnp.isfinite(x).all() for name, x in arrays.items()}


# In the host's memory, with numpy: compiling a program for each shape would take longer.


def _parts(x: Any) -> list[np.ndarray]:
  if not isinstance(x, jax.Array):
    return [np.asarray(x)]
  return [np.asarray(shard.data) for shard in x.addressable_shards if shard.replica_id == 0]


def _is_finite(x: np.ndarray) -> bool:
  # A NaN anywhere in a block makes its minimum NaN.
  return all(np.isfinite(block.min()) and np.isfinite(block.max()) for block in _blocks(x))


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
  """The values of `x` in portions, in a dtype that numpy handles fast."""
  x = np.stack([np.real(x), np.imag(x)]) if np.iscomplexobj(x) else x
  flat = x.reshape(-1)
  quick = flat.dtype in (np.float32, np.float64)
  for start in range(0, flat.size, _VALUES_AT_ONCE):
    block = flat[start : start + _VALUES_AT_ONCE]
    yield block if quick else block.astype(np.float32)
