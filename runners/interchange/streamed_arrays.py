"""Arrays in the streaming checkpoints of LWM (tux), found by name and read in place.

A file is a sequence of msgpack pairs (key, bytes). A key is a list of names. The bytes are
flax.serialization's form of an array: an extension (shape, dtype, elements), or for a large
array a map of several flat ones. Only headers are parsed here, so that elements are read on
request and without a copy.
"""

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import msgpack
import numpy as np

from layers.errors import UserError

_WINDOW = 2**16  # bytes; every key, shape and header is smaller
_BIN = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # code -> bytes of its length
_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}  # code -> length
_CHUNKED = "__msgpack_chunked_array__"
_NOT_AS_WRITTEN = (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException)


class Streamed(NamedTuple):
  """Where an array lies in the file: (first byte, number of elements) of each flat piece."""

  shape: tuple[int, ...]
  dtype: np.dtype
  pieces: tuple[tuple[int, int], ...]


class Stream:
  """The arrays of a file by name ("params/transformer/wte/embedding").

  Attributes:
    arrays: name -> place in the file; values that are no arrays are left out.

  Raises:
    UserError: the file cannot be read, is another kind of file, or is cut off.
  """

  def __init__(self, file: str | Path):
    try:
      with open(file, "rb") as opened:
        self._bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty
      raise UserError(f"cannot read {file}: {error}") from error
    self.arrays: dict[str, Streamed] = {}
    cursor = _Cursor(self._bytes)
    try:
      while cursor.at < len(self._bytes):
        name, array = _pair(cursor)
        if array is not None:
          self.arrays[name] = array
    except _NOT_AS_WRITTEN as error:
      raise UserError(
        f"{file} is no streaming checkpoint, or is cut off, at byte {cursor.at} of "
        f"{len(self._bytes)}"
      ) from error

  def read(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
    """Elements `first` to `last` of an array, flat; a view if they lie in one piece."""
    array = self.arrays[name]
    last = sum(count for _, count in array.pieces) if last is None else last
    found, start = [], 0
    for offset, count in array.pieces:
      low, high = max(first - start, 0), min(last - start, count)
      if low < high:
        at = offset + low * array.dtype.itemsize
        found.append(np.frombuffer(self._bytes, array.dtype, high - low, at))
      start += count
    return found[0] if len(found) == 1 else np.concatenate([*found, np.empty(0, array.dtype)])


class _Cursor:
  """A place in a file, moved on by what is parsed there."""

  def __init__(self, content: mmap.mmap):
    self._content, self.at, self.size = content, 0, len(content)

  def _small(self, parse: str) -> Any:
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(self._content[self.at : self.at + _WINDOW])
    value = getattr(unpacker, parse)()
    self.at += unpacker.tell()
    return value

  def value(self) -> Any:
    return self._small("unpack")

  def list_length(self) -> int:
    return self._small("read_array_header")

  def map_length(self) -> int:
    return self._small("read_map_header")

  def is_extension(self) -> bool:
    return self._content[self.at] in (*_EXT, *_FIXED_EXT)

  def is_map(self) -> bool:
    return self._content[self.at] >> 4 == 0x8

  def bytes_length(self) -> int:
    """Reads a header; returns the number of bytes that follow it."""
    return self._length(_BIN[self._content[self.at]])

  def skip_extension_header(self) -> None:
    code = self._content[self.at]
    if code in _FIXED_EXT:
      self.at += 1
    else:
      self._length(_EXT[code])
    self.at += 1  # its type

  def _length(self, size: int) -> int:
    length = int.from_bytes(self._content[self.at + 1 : self.at + 1 + size], "big")
    self.at += 1 + size
    return length


def _pair(cursor: _Cursor) -> tuple[str, Streamed | None]:
  if cursor.list_length() != 2:
    raise ValueError("no pair")
  name = "/".join(cursor.value())
  length = cursor.bytes_length()
  end = cursor.at + length
  if end > cursor.size:
    raise ValueError("cut off")
  array = None
  if cursor.is_extension():
    array = _array(cursor)
  elif cursor.is_map():
    array = _chunked(cursor)
  if array is not None and cursor.at != end:
    raise ValueError("another length")
  cursor.at = end
  return name, array


def _array(cursor: _Cursor) -> Streamed:
  cursor.skip_extension_header()
  if cursor.list_length() != 3:
    raise ValueError("no array")
  shape, name = tuple(cursor.value()), cursor.value()
  length = cursor.bytes_length()
  dtype = jnp.dtype(name)  # knows bfloat16
  count = int(np.prod(shape, dtype=np.int64))
  if length != count * dtype.itemsize:
    raise ValueError("another size")
  pieces = ((cursor.at, count),)
  cursor.at += length
  return Streamed(shape, dtype, pieces)


def _chunked(cursor: _Cursor) -> Streamed | None:
  shape, chunks = (), []
  for _ in range(cursor.map_length()):
    match cursor.value():
      case "shape":
        sizes = cursor.value()
        shape = tuple(sizes[str(n)] for n in range(len(sizes)))
      case "chunks":
        for n in range(cursor.map_length()):
          if cursor.value() != str(n):
            raise ValueError("out of order")
          chunks.append(_array(cursor))
      case other:
        if other != _CHUNKED or cursor.value() is not True:
          raise ValueError("no array")
  pieces = tuple(piece for chunk in chunks for piece in chunk.pieces)
  if sum(count for _, count in pieces) != int(np.prod(shape, dtype=np.int64)):
    raise ValueError("another size")
  return Streamed(shape, chunks[0].dtype, pieces)
