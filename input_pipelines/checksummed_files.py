"""Files with checksums: JSON is checked as a whole, large arrays block by block.

Checking a whole large file at every start would take seconds a gigabyte, and a check in the
background would let batches use unchecked data. So each block is checked once, when it is first
read: nothing unchecked is used, and a start costs nothing.

CRC-32 finds every change within 32 neighbouring bits, and misses one in 4 billion others. It
can be continued where it stopped, as an interrupted build needs. At 2 GB/s it costs a
thousandth of an epoch. It guards against accidents, not against people.
"""

import json
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from layers.errors import UserError

BLOCK_BYTES = 1 << 16  # a disk reads as much at once anyway; a row checks one or two blocks

_CHECKSUM = "checksum"


class DamagedFile(UserError):
  """A file has changed since it was written; the message says which, and where."""


def write_json(path: Path, entries: dict[str, Any]) -> None:
  """Replaces `path` atomically: a reader finds the old content or the new, never a part."""
  new = path.with_name(f"{path.name}.{os.getpid()}.new")
  with new.open("w") as file:
    json.dump({**entries, _CHECKSUM: _entries_checksum(entries)}, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  os.replace(new, path)
  sync_directory(path.parent)


def read_json(path: Path) -> dict[str, Any]:
  """The entries that `write_json` wrote; DamagedFile if the file is missing or altered."""
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
  """The file as a memory-mapped array [length]; DamagedFile if its size differs."""
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
  """CRC-32 of the array's bytes; `before` is the CRC-32 of the bytes in front of them."""
  return zlib.crc32(array.data, before)


def block_checksums(
  array: np.ndarray, start: int = 0, unfinished: int = 0
) -> tuple[np.ndarray, int]:
  """Checksums of the blocks that `array` completes, uint32 [blocks], and of the last one.

  `array` continues its file at byte `start`, in a block whose checksum so far is `unfinished`.
  An empty block has the checksum 0.
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
  """Checks blocks of an array before they are first read; threads may share it."""

  def __init__(self, name: str, array: np.ndarray, checksums: np.ndarray):
    """`name` of the file, for messages; `checksums`: uint32 [blocks], the last block short."""
    self._name = name
    self._array = array
    self._checksums = checksums
    self._items = BLOCK_BYTES // array.itemsize
    self._unchecked = bytearray(b"\1" * len(checksums))
    self._num_unchecked = len(checksums)
    self._lock = threading.Lock()

  def check(self, starts: np.ndarray, ends: np.ndarray) -> None:
    """Checks items starts[i] up to ends[i], clipped to the array; DamagedFile for a change."""
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
