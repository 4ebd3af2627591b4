"""Checksums of arrays: of their values, however these lie on devices or in files.

Each array is taken as words, one for each element of up to 4 bytes, and each word is mixed with
its place:

  v = bits xor place     place = (index along each dimension) . (odd constants) mod 2^32
  m = mix(v)             a bijection of 32-bit words: a changed word changes m
  checksum = sum of m, sum of m * (place | 1)     both mod 2^32

One changed word changes the first sum for certain; any other damage, such as words exchanged,
zeroed or shifted, leaves both as they were with a probability of about 2^-60. Sums do not mind
the order in which they are taken, so that each device adds up what it holds: the checksum is
the same on every mesh, and on one process or many. That is why it is not a CRC of the bytes.
And it is taken from the arrays in memory, not from the files when they are written: it also
tells what went wrong on the way there, and no host has to read the files of all others.
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
_WORDS_AT_ONCE = 2**15  # what is computed on them stays in the cache
_ROW = 256  # words that are worth a row of such a block


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
  """8 hexadecimal digits of what JSON makes of `value`; alike before and after a round trip."""
  return f"{zlib.crc32(json.dumps(value).encode()):08x}"


def is_on_host(x: Any) -> bool:
  """Whether this process has all of `x` in its own memory."""
  if not isinstance(x, jax.Array):
    return True
  return x.is_fully_addressable and all(d.platform == "cpu" for d in x.devices())


# On accelerators: one program for all arrays, in which each device reads what it holds.


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


# In the host's memory: compiling for each shape would take longer than most states do.


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
  """Both sums of a part of an array that begins at the indices `start` of the whole."""
  if x.dtype.itemsize > 4:  # as jax does it: two words, along a last dimension
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
  """Into `mixed` what `_sum_of` adds up; `shifted` is room to work in."""
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
  """Flat uint32: what the indices along `dimensions` add to the place of each word."""
  places = np.zeros(1, np.uint32)
  for dimension in dimensions:
    factor = _PLACE[dimension]
    index = np.arange(shape[dimension], dtype=np.uint32) * np.uint32(factor)
    index += np.uint32(start[dimension] * factor % 2**32)
    places = (places[:, None] + index).reshape(-1)
  return places


def _word_type(dtype: Any) -> np.dtype:
  """The unsigned integers that hold the bits of `dtype`, of 4 bytes at most."""
  return np.dtype(f"uint{8 * min(4, np.dtype(dtype).itemsize)}")
