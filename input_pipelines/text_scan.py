"""One pass over a text file: whether it is UTF-8, its characters, and where it may be cut.

A large file is not read again at the next start: the cache keeps the result with the file's
size, times and inode. Any write, copy or rename changes one of these (the change time cannot be
set at will), except a write within the same tick of the file system's clock. So the result for
a file changed in the last minute is not kept.
"""

import codecs
import contextlib
import dataclasses
import functools
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np

from input_pipelines.checksummed_files import DamagedFile, read_json, write_json
from input_pipelines.token_store import known_cache_dir
from layers.errors import UserError

PART_BYTES = 1 << 20
_NUM_CODE_POINTS = 0x110000
_NOTED_BYTES = 64 << 20  # a smaller file takes less than 0.2 s
_SETTLED_S = 60.0


@dataclasses.dataclass(frozen=True)
class TextScan:
  """The result of the pass. Part i is bytes part_bytes[i]:part_bytes[i+1], whole characters."""

  path: Path
  stamp: list[int]  # size, times and inode of the file
  sha256: str
  characters: str  # sorted, each once
  part_bytes: np.ndarray  # [parts + 1], first byte of each part, then the file's size
  part_characters: np.ndarray  # [parts + 1], number of characters before each part

  @property
  def num_bytes(self) -> int:
    return int(self.part_bytes[-1])

  @property
  def num_characters(self) -> int:
    return int(self.part_characters[-1])

  def byte_of(self, character: int) -> int:
    """The byte in the file at which character number `character` starts."""
    part = int(np.searchsorted(self.part_characters, character, "right")) - 1
    if part == len(self.part_bytes) - 1:
      return self.num_bytes
    start, end = self.part_bytes[part : part + 2]
    text = self.read(int(start), int(end)).decode()
    return int(start) + len(text[: character - self.part_characters[part]].encode())

  def read(self, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of the file; UserError if it has changed since the scan."""
    with self.path.open("rb") as file:
      if _stamp(os.fstat(file.fileno())) != self.stamp:
        raise UserError(f"the text file {self.path} changed while it was read; start again")
      file.seek(start)
      return file.read(end - start)


def scan_text(path: str) -> TextScan:
  """Reads the file at `path`; UserError if it is missing, unreadable, empty or not UTF-8."""
  try:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
      raise UserError(f"{path} is a pipe or a device; write what it gives to a file")
    if not status.st_size and os.path.isfile(path):
      raise UserError(f"the text file {path} is empty; give a file with text in it")
    return _scan(path, tuple(_stamp(status)))
  except FileNotFoundError:
    raise UserError(
      f"no text file at {path} (looked from {os.getcwd()}); check the path, or "
      "give an absolute one"
    ) from None
  except IsADirectoryError:
    raise UserError(f"{path} is a directory; give one text file in it") from None
  except OSError as error:
    raise UserError(
      f"cannot read the text file {path}: {error.strerror}; make it readable, or give another"
    ) from None


def _stamp(status: os.stat_result) -> list[int]:
  return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


@functools.lru_cache(maxsize=8)  # the splits of one file scan it once
def _scan(path: str, stamp: tuple[int, ...]) -> TextScan:
  cache_dir = known_cache_dir()
  if stamp[0] < _NOTED_BYTES or cache_dir is None:
    return _pass_over(path, list(stamp))
  name = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:16]
  notes = Path(cache_dir) / "texts" / f"{name}.json"
  with contextlib.suppress(DamagedFile):  # or not there yet
    noted = read_json(notes)
    if noted["stamp"] == list(stamp):
      return _from_json(path, noted)
  settled = time.time() - max(stamp[1:3]) / 1e9 > _SETTLED_S
  scan = _pass_over(path, list(stamp))
  if settled and _stamp(os.stat(path)) == scan.stamp:
    with contextlib.suppress(OSError):  # an unwritable cache only costs time
      notes.parent.mkdir(parents=True, exist_ok=True)
      write_json(notes, _to_json(scan))
  return scan


def _to_json(scan: TextScan) -> dict[str, Any]:
  return {
    "path": str(scan.path),  # for people
    "stamp": scan.stamp,
    "sha256": scan.sha256,
    "characters": scan.characters,
    "part_bytes": scan.part_bytes.tolist(),
    "part_characters": scan.part_characters.tolist(),
  }


def _from_json(path: str, noted: dict[str, Any]) -> TextScan:
  parts = {key: np.array(noted[key]) for key in ("part_bytes", "part_characters")}
  return TextScan(Path(path), noted["stamp"], noted["sha256"], noted["characters"], **parts)


def _pass_over(path: str, stamp: list[int]) -> TextScan:
  decoder = codecs.getincrementaldecoder("utf-8")()
  checksum = hashlib.sha256()
  seen = np.zeros(_NUM_CODE_POINTS, bool)
  part_bytes, part_characters = [0], [0]
  with open(path, "rb") as file:
    while chunk := file.read(PART_BYTES):
      text = _decode(decoder, chunk, part_bytes[-1], path)
      checksum.update(chunk)
      seen[np.frombuffer(text.encode("utf-32-le"), np.uint32)] = True
      part_bytes.append(file.tell() - len(decoder.getstate()[0]))
      part_characters.append(part_characters[-1] + len(text))
  _decode(decoder, b"", part_bytes[-1], path)
  return TextScan(
    path=Path(path),
    stamp=stamp,
    sha256=checksum.hexdigest(),
    characters="".join(map(chr, np.flatnonzero(seen).tolist())),
    part_bytes=np.array(part_bytes),
    part_characters=np.array(part_characters),
  )


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, start: int, path: str) -> str:
  """The complete characters of the decoder's rest, which began at byte `start`, and `chunk`."""
  try:
    return decoder.decode(chunk, final=not chunk)
  except UnicodeDecodeError as error:
    raise UserError(
      f"the text file {path} is not UTF-8: byte {start + error.start} "
      f"(0x{error.object[error.start]:02x}) starts no character; convert it, for example "
      f"with `iconv -f latin1 -t utf-8`"
    ) from None
