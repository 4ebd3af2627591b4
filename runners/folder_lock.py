"""A folder held by one process alone, by a lock that the system lets go when that dies."""

import fcntl
from pathlib import Path
from typing import TextIO

from layers.errors import UserError

_NAME = ".lock"


def hold(folder: str | Path) -> TextIO:
  """Makes `folder` if it is not there and holds it until the file returned is closed.

  Raises:
    UserError: it cannot be written or locked, or another process holds it.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / _NAME, "w")
  except OSError as error:
    raise UserError(
      f"cannot write in workdir {folder}: {error.strerror}; choose another with --workdir"
    ) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    lock.close()
    if isinstance(error, BlockingIOError):
      raise UserError(
        f"another process is running in {folder}; wait for it, or choose another --workdir"
      ) from error
    raise UserError(
      f"cannot lock {folder}: {error.strerror}; choose a --workdir on another file system"
    ) from error
  return lock


def is_held(folder: str | Path) -> bool:
  """Whether a process holds `folder` at the moment."""
  try:
    with open(Path(folder) / _NAME) as lock:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except FileNotFoundError:
    return False
  except BlockingIOError:
    return True
  return False
