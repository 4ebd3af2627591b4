"""A file that grows by whole records, and loses none to a full disk.

Each record reaches the operating system in one write before the call returns, so a killed
process loses no record and leaves no half record. On a full disk records wait in memory until
there is room.
"""

import collections
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from runners.processes.workdir_entries import open_file

_QUIET_S = 60.0  # seconds; a disk that is full for less is not reported


class RecordsWait(OSError):
  """The file could not be written for a minute; its records wait in memory."""


class AppendedFile:
  """Appends to the file at `path`; the first record creates it and its folder."""

  def __init__(self, path: str, clock: Callable[[], float] = time.monotonic):
    self.path = path
    self._clock = clock
    self._file: int | None = None
    self._waiting: collections.deque[bytes] = collections.deque()
    self._full_since: float | None = None

  def append(self, record: bytes) -> None:
    """Accepts the record, and writes it if there is room; RecordsWait if not for a minute."""
    self._waiting.append(record)
    self._write_what_fits()

  def flush(self) -> None:
    """Returns when all written records would survive a crash of the machine."""
    self._write_what_fits()
    if self._file is not None:
      os.fsync(self._file)

  def settle(self) -> None:
    """Writes all waiting records; OSError if that fails."""
    while self._waiting:
      record = self._waiting[0]
      file = self._open()
      written = os.write(file, record)
      if written != len(record):  # no half record may stay
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
      self._waiting.popleft()
    self._full_since = None

  def close(self) -> None:
    """Flushes and closes the file; OSError if records are lost."""
    try:
      self.settle()
      if self._file is not None:
        os.fsync(self._file)
    finally:
      if self._file is not None:
        file, self._file = self._file, None
        os.close(file)

  def _write_what_fits(self) -> None:
    try:
      self.settle()
    except OSError as error:
      now = self._clock()
      if self._full_since is None:
        self._full_since = now
      if now - self._full_since >= _QUIET_S:
        raise RecordsWait(
          f"{self.path} cannot be written ({error.strerror}): what belongs there is kept in "
          "memory until it can"
        ) from error

  def _open(self) -> int:
    if self._file is None:
      os.makedirs(os.path.dirname(self.path), exist_ok=True)
      self._file = open_file(Path(self.path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return self._file
