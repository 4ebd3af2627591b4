"""What a run writes in its workdir: files and folders that are its own, and never links.

A workdir may come from somebody else. A link in it, say config.json or .lock, would let a run
change a file anywhere, so links are refused, wherever they lead. The workdir itself may be one.
"""

import errno
import os
import stat
from pathlib import Path

from layers.errors import UserError

FILES = ("config.json", "config.txt", "run.json", "metrics.jsonl", "operative_config.gin")
FOLDERS = ("checkpoints", "tensorboard", "samples", "profile")


def check_entries(workdir: Path) -> None:
  """Raises UserError for a link, or a file in place of a folder, where a run would write."""
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
  """A descriptor of a file that is no link, made if `flags` say so.

  Raises:
    UserError: it is a link, or no file.
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
  """Puts `content` at `path`; a crash or a full disk leaves the file that was there, whole."""
  new = path.with_name(f".{path.name}.{os.getpid()}")
  new.unlink(missing_ok=True)
  try:
    # Made anew, so that it cannot be a link either.
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
