"""Reads files of a folder that a stranger may have filled: never outside it, never too large.

A name in an index may lead out of its folder (`../../etc/passwd`), and a file may be a link to
anywhere, a device, a pipe, or endless. Only links within the cache of the Hugging Face hub
(`snapshots/<revision>/name -> ../../blobs/<hash>`) are followed: they stay in the cache.
"""

import os
import stat
from pathlib import Path

from layers.errors import UserError

_SHOWN = 100  # characters of a name
_POINTER = b"version https://git-lfs.github.com/spec"


def file_within(folder: str | Path, name: str) -> Path:
  """The path of the file `name` in `folder`, checked to stay there when links are followed.

  A missing file is no error here; opening it will be.

  Raises:
    UserError: the name or a link leads out of the folder, or to something that is no file.
  """
  folder = Path(folder)
  path = folder / name
  if os.path.isabs(name) or ".." in Path(name).parts or not name.isprintable() or not name:
    raise UserError(
      f"{folder} names the file {name[:_SHOWN]!r}, which is not within that folder"
    )
  try:
    real = path.resolve()
    is_there = real.exists()
  except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name too long
    shown = f"{folder / name[:_SHOWN]}"
    reason = getattr(error, "strerror", None) or "the link leads nowhere"
    raise UserError(f"cannot read {shown!r}: {reason}") from error
  if not any(real.is_relative_to(root) for root in _roots(folder)):
    raise UserError(
      f"{path} is a link to {real}, outside of its folder, and is not followed: put a copy of"
      " the file there"
    )
  if is_there and not real.is_file():
    raise UserError(f"{path} is no file")
  return path


def read_bytes(file: str | Path, max_bytes: int) -> bytes:
  """The contents of a regular file of at most `max_bytes`.

  Raises:
    UserError: it is missing, unreadable, larger, or a pipe or device.
  """
  try:
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
      if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        raise UserError(f"{file} is no regular file")
      content = stream.read(max_bytes + 1)
  except OSError as error:
    raise UserError(f"cannot read {file}: {error.strerror or error}") from error
  if len(content) > max_bytes:
    raise UserError(f"{file} has more than {max_bytes:,} bytes, and is not read")
  _refuse_pointer(content, file)
  return content


def refuse_pointer(file: str | Path) -> None:
  """Raises UserError if the file is a Git LFS pointer instead of the content.

  An unreadable file is no error here; opening it will be.
  """
  try:
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
      if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        _refuse_pointer(stream.read(len(_POINTER)), file)
  except OSError:
    return


def _refuse_pointer(content: bytes, file: str | Path) -> None:
  if content.startswith(_POINTER):
    raise UserError(
      f"{file} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder"
    )


def _roots(folder: Path) -> list[Path]:
  """Folders in which a folder's files may really lie: itself, or its hub cache's blobs."""
  real = folder.resolve()
  cached = real.parent.name == "snapshots" and (real.parent.parent / "blobs").is_dir()
  return [real, real.parent.parent / "blobs"] if cached else [real]
