"""Gives one process sole use of a folder, by a lock that the system frees when it dies."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from layers.errors import UserError
from runners.processes.workdir_entries import check_entries, open_file

_NAME = ".lock"


def hold(folder: str | Path) -> TextIO:
  """Creates `folder` if missing, and holds it until the returned file is closed.

  Raises:
    UserError: it cannot be written or locked, another process holds it, or a link stands
      where a run would write.
  """
  folder = Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(open_file(folder / _NAME, os.O_RDWR | os.O_CREAT), "w")
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
  try:
    check_entries(folder)
  except UserError:
    lock.close()
    raise
  return lock


def is_held(folder: str | Path) -> bool:
  """Whether a process holds `folder` at the moment."""
  try:
    with open(open_file(Path(folder) / _NAME, os.O_RDONLY)) as lock:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except (FileNotFoundError, UserError):  # `hold` reports a UserError
    return False
  except BlockingIOError:
    return True
  return False
