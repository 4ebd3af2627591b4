"""Checksums of an array's values, independent of how devices or files hold them.

An array is read as 32-bit words, one for each element of up to 4 bytes. Each word is mixed with
its place:

  v = bits xor place     place = (index along each dimension) . (odd constants) mod 2^32
  m = mix(v)             a bijection of 32-bit words: a changed word changes m
  checksum = sum of m, sum of m * (place | 1)     both mod 2^32

One changed word always changes the first sum. Any other damage (words exchanged, zeroed,
shifted) goes unnoticed with a probability of about 2^-60. Unlike a CRC of the bytes, sums do
not depend on order: each device adds up its own words, and the checksum is the same on every
mesh and for any number of processes. It is computed from the arrays in memory, not from the
written files, so it also detects errors while writing, and no host reads other hosts' files.
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLACE = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5)
_MIX = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))  # of MurmurHash3's last step
_WORDS_AT_ONCE = 2**15  # so that intermediate results stay in the CPU's cache
_ROW = 256  # fewest words for which a row of a block pays


def array_checksums(arrays: Mapping[str, Any]) -> dict[str, str]:
  """Name -> 16 hexadecimal digits, for jax arrays and numpy arrays of at most 7 dimensions.

  Every process has to call it with the same arrays, and has the same result.
  """
  on_host = all(is_on_host(x) for x in arrays.values())
  sums = {name: _sum_on_host(x) for name, x in arrays.items()} if on_host else None
  if sums is None:
    sums = jax.device_get(_sums_on_devices(dict(arrays)))
  return {name: "".join(f"{int(part):08x}" for part in sums[name]) for name in arrays}


def json_checksum(value: Any) -> str:
  """8 hexadecimal digits, the CRC of `value` as JSON text; a JSON round trip keeps it."""
  return f"{zlib.crc32(json.dumps(value).encode()):08x}"


def is_on_host(x: Any) -> bool:
  """Whether this process has all of `x` in its own memory."""
  if not isinstance(x, jax.Array):
    return True
  return x.is_fully_addressable and all(d.platform == "cpu" for d in x.devices())


# On accelerators: one program for all arrays; each device reads its own part.


@jax.jit
def _sums_on_devices(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {name: _sum_of(x) for name, x in arrays.items()}


def _sum_of(x: jax.Array) -> jax.Array:
  """[2] uint32."""
  x = x.astype(jnp.uint8) if x.dtype == bool else x
  bits = jax.lax.bitcast_convert_type(x, _word_type(x.dtype)).astype(jnp.uint32)
  place = jnp.zeros(bits.shape, jnp.uint32)
  for dimension in range(bits.ndim):
    index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dimension)
    place += index * np.uint32(_PLACE[dimension])
  mixed = bits ^ place
  mixed = (mixed ^ (mixed >> 16)) * _MIX[0]
  mixed = (mixed ^ (mixed >> 13)) * _MIX[1]
  mixed ^= mixed >> 16
  sums = mixed.sum(dtype=jnp.uint32), (mixed * (place | 1)).sum(dtype=jnp.uint32)
  return jnp.stack(sums)


# In the host's memory, with numpy: compiling a program for each shape would take longer.


def _sum_on_host(x: Any) -> tuple[int, int]:
  if not isinstance(x, jax.Array):
    return _sum_of_part(np.asarray(x, order="C"), [0] * x.ndim)
  parts = [
    _sum_of_part(np.asarray(shard.data, order="C"), [part.start or 0 for part in shard.index])
    for shard in x.addressable_shards
    if shard.replica_id == 0
  ]
  first, second = (sum(sums) % 2**32 for sums in zip(*parts, strict=True))
  return first, second


def _sum_of_part(x: np.ndarray, start: Sequence[int]) -> tuple[int, int]:
  """Both sums of `x`, a part of an array; `start` is the index of its first element there."""
  if x.dtype.itemsize > 4:  # two words along a new last dimension, as jax's bitcast does
    x, start = x[..., None].view(np.uint32), [*start, 0]
  inner_dims = next(n for n in range(x.ndim + 1) if _is_a_row(x.shape[x.ndim - n :], x.shape))
  split = x.ndim - inner_dims
  outer = _places(range(split), x.shape, start)[:, None]
  inner = _places(range(split, x.ndim), x.shape, start)
  rows = x.view(_word_type(x.dtype)).reshape(outer.size, inner.size)
  width = min(max(1, inner.size), _WORDS_AT_ONCE)
  height = _WORDS_AT_ONCE // width
  buffers = np.empty((3, min(height, len(rows)), width), np.uint32)
  first = second = 0
  for top in range(0, len(rows), height):
    for left in range(0, inner.size, width):
      block = rows[top : top + height, left : left + width]
      place, mixed, shifted = buffers[:, : block.shape[0], : block.shape[1]]
      np.add(outer[top : top + height], inner[left : left + width], out=place)
      _mix(block, place, mixed, shifted)
      first += int(mixed.sum(dtype=np.uint32))
      np.bitwise_or(place, 1, out=place)
      np.multiply(mixed, place, out=mixed)
      second += int(mixed.sum(dtype=np.uint32))
  return first % 2**32, second % 2**32


def _mix(words: np.ndarray, place: np.ndarray, mixed: np.ndarray, shifted: np.ndarray) -> None:
  """Writes to `mixed` the words that `_sum_of` adds up; `shifted` is a work buffer."""
  np.bitwise_xor(words, place, out=mixed)
  for shift, factor in zip((16, 13), _MIX, strict=True):
    np.right_shift(mixed, shift, out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    np.multiply(mixed, factor, out=mixed)
  np.right_shift(mixed, 16, out=shifted)
  np.bitwise_xor(mixed, shifted, out=mixed)


def _is_a_row(inner: Sequence[int], shape: Sequence[int]) -> bool:
  return math.prod(inner) >= _ROW or len(inner) == len(shape)


def _places(dimensions: Iterable[int], shape: Sequence[int], start: Sequence[int]) -> Any:
  """Flat uint32: the share of the indices along `dimensions` in each word's place."""
  places = np.zeros(1, np.uint32)
  for dimension in dimensions:
    factor = _PLACE[dimension]
    index = np.arange(shape[dimension], dtype=np.uint32) * np.uint32(factor)
    index += np.uint32(start[dimension] * factor % 2**32)
    places = (places[:, None] + index).reshape(-1)
  return places


def _word_type(dtype: Any) -> np.dtype:
  """The unsigned integer type, of 4 bytes at most, that holds the bits of `dtype`."""
  return np.dtype(f"uint{8 * min(4, np.dtype(dtype).itemsize)}")
