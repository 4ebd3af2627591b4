"""The files and folders that a run writes in its workdir, which must not be links.

A workdir may come from somebody else. Through a link in it, say at config.json or .lock, a run
could change a file anywhere. So every link is refused; the workdir itself may be one.
"""

import errno
import os
import stat
from pathlib import Path

from layers.errors import UserError

FILES = ("config.json", "config.txt", "run.json", "metrics.jsonl", "operative_config.gin")
FOLDERS = ("checkpoints", "tensorboard", "samples", "profile")


def check_entries(workdir: Path) -> None:
  """Raises UserError if a link, or the wrong one of file and folder, is where a run writes."""
  for name in (*FILES, *FOLDERS):
    path = workdir / name
    try:
      mode = os.lstat(path).st_mode
    except FileNotFoundError:
      continue
    except OSError as error:
      raise UserError(f"cannot look at {path}: {error.strerror}") from error
    if stat.S_ISLNK(mode):
      raise _linked(path)
    wanted, kind = (stat.S_ISREG, "file") if name in FILES else (stat.S_ISDIR, "folder")
    if not wanted(mode):
      raise UserError(
        f"{path} is no {kind}, and a run keeps a {kind} there; move it away, or choose another "
        "--workdir"
      )


def open_file(path: Path, flags: int) -> int:
  """A descriptor of a regular file, created if `flags` contain O_CREAT.

  Raises:
    UserError: the path is a link or no regular file.
    OSError: it cannot be opened.
  """
  try:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
  except OSError as error:
    if error.errno in (errno.ELOOP, errno.EMLINK):
      raise _linked(path) from error
    raise
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise UserError(f"{path} is no file; move it away, or choose another --workdir")
  return descriptor


def replace_file(path: Path, content: str | bytes) -> None:
  """Replaces the file at `path`; after a crash or on a full disk the old file is intact."""
  new = path.with_name(f".{path.name}.{os.getpid()}")
  new.unlink(missing_ok=True)
  try:
    # O_EXCL: a new file, so it cannot be a link.
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(new, path)
  except OSError:
    new.unlink(missing_ok=True)
    raise


def _linked(path: Path) -> UserError:
  return UserError(
    f"{path} is a link, and a run writes nothing through links in its workdir; put there what "
    "it leads to, or choose another --workdir (which may itself be a link)"
  )
