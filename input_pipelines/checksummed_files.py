"""Files that tell when they have changed: JSON as a whole, large arrays block by block.

Reading a large file against one checksum takes seconds a gigabyte, at every start; a check in
the background would let batches be made of what it has not reached yet. So each block is
checked once, when it is first read: nothing unchecked is ever used, and a start costs nothing.

CRC-32 finds every change of up to 32 neighbouring bits and misses one of 4 billion others. It
goes on from where it stopped, as a build does that was interrupted, and at 2 GB/s it costs an
epoch a thousandth. It guards against accidents, not against people.
"""

import json
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from layers.errors import UserError

BLOCK_BYTES = 1 << 16  # what is read from a disk at once anyway; a row checks one or two

_CHECKSUM = "checksum"


class DamagedFile(UserError):
  """A file is not what it was when it was written: says which, and where."""


def write_json(path: Path, entries: dict[str, Any]) -> None:
  """Replaces `path` as a whole: a reader finds the old content or the new, never a part."""
  new = path.with_name(f"{path.name}.{os.getpid()}.new")
  with new.open("w") as file:
    json.dump({**entries, _CHECKSUM: _entries_checksum(entries)}, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  os.replace(new, path)
  sync_directory(path.parent)


def read_json(path: Path) -> dict[str, Any]:
  """What `write_json` wrote; DamagedFile where the file is missing or holds anything else."""
  try:
    entries = json.loads(path.read_bytes())
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
    raise DamagedFile(f"{path.name} is missing") from None
  except ValueError:
    raise DamagedFile(f"{path.name} is not JSON") from None
  claimed = entries.pop(_CHECKSUM, None) if isinstance(entries, dict) else None
  if claimed is None or claimed != _entries_checksum(entries):
    raise DamagedFile(f"{path.name} does not have its own checksum")
  return entries


def map_array(path: Path, dtype: np.dtype, length: int) -> np.ndarray:
  """The file as an array [length], mapped; DamagedFile where it has another size."""
  size = length * dtype.itemsize
  try:
    found = path.stat().st_size
  except (FileNotFoundError, NotADirectoryError):
    raise DamagedFile(f"{path.name} is missing") from None
  if found != size:
    raise DamagedFile(f"{path.name} has {found} bytes instead of {size}")
  if not size:  # mmap refuses empty files
    return np.zeros(0, dtype)
  # A plain array over the map: np.memmap would run its bookkeeping on every slice.
  return np.asarray(np.memmap(path, dtype, "r"))


def checksum(array: np.ndarray, before: int = 0) -> int:
  """CRC-32 of the array's bytes; `before` is that of the bytes in front of them."""
  return zlib.crc32(array.data, before)


def block_checksums(
  array: np.ndarray, start: int = 0, unfinished: int = 0
) -> tuple[np.ndarray, int]:
  """Of the blocks that `array` completes, uint32 [blocks], and of the one it leaves unfinished.

  `array` goes on at byte `start` of its file, in a block whose checksum so far is
  `unfinished`. A block that is not begun has the checksum 0.
  """
  checksums = []
  rest = array.view(np.uint8)
  while rest.size:
    part = rest[: BLOCK_BYTES - start % BLOCK_BYTES]
    unfinished = checksum(part, unfinished)
    start, rest = start + part.size, rest[part.size :]
    if start % BLOCK_BYTES == 0:
      checksums.append(unfinished)
      unfinished = 0
  return np.array(checksums, np.uint32), unfinished


class CheckedBlocks:
  """Checks parts of an array before they are read, each block once; threads may share it."""

  def __init__(self, name: str, array: np.ndarray, checksums: np.ndarray):
    """`name` of the file, for messages; `checksums` uint32, of every block, the last short."""
    self._name = name
    self._array = array
    self._checksums = checksums
    self._items = BLOCK_BYTES // array.itemsize
    self._unchecked = bytearray(b"\1" * len(checksums))
    self._num_unchecked = len(checksums)
    self._lock = threading.Lock()

  def check(self, starts: np.ndarray, ends: np.ndarray) -> None:
    """Of items starts[i] up to ends[i], clipped to the array; DamagedFile where one changed."""
    if not self._num_unchecked:
      return
    first, last = starts // self._items, (ends - 1) // self._items
    for i, j in zip(first.tolist(), last.tolist(), strict=True):
      for block in range(i, min(j + 1, len(self._unchecked))):
        if self._unchecked[block]:
          self._check(block)

  def check_all(self) -> None:
    """Reads the whole file; DamagedFile at the first block that changed."""
    for block, unchecked in enumerate(self._unchecked):
      if unchecked:
        self._check(block)

  def _check(self, block: int) -> None:
    content = self._array[block * self._items : (block + 1) * self._items]
    if checksum(content) != self._checksums[block]:
      start = block * BLOCK_BYTES
      raise DamagedFile(
        f"{self._name} has changed between bytes {start} and {start + content.nbytes}"
      )
    with self._lock:
      self._num_unchecked -= self._unchecked[block]
      self._unchecked[block] = 0


def sync_directory(directory: Path) -> None:
  """Makes the names in a directory survive a power cut, as fsync does for contents."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _entries_checksum(entries: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(entries, sort_keys=True).encode())
