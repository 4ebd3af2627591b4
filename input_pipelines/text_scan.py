"""One pass over a text file: is it UTF-8, which characters has it, and where may it be cut."""

import codecs
import dataclasses
import functools
import hashlib
import os
from pathlib import Path

import numpy as np

from layers.errors import UserError

PART_BYTES = 1 << 20
_NUM_CODE_POINTS = 0x110000


@dataclasses.dataclass(frozen=True)
class TextScan:
  """What the pass found. Part i is bytes part_bytes[i]:part_bytes[i+1], whole characters."""

  path: Path
  sha256: str
  characters: str  # sorted, each once
  part_bytes: np.ndarray  # [parts + 1], the last is the size of the file
  part_characters: np.ndarray  # [parts + 1], the number of characters before each part

  @property
  def num_bytes(self) -> int:
    return int(self.part_bytes[-1])

  @property
  def num_characters(self) -> int:
    return int(self.part_characters[-1])

  def byte_of(self, character: int) -> int:
    """Where in the file the character number `character` starts."""
    part = int(np.searchsorted(self.part_characters, character, "right")) - 1
    if part == len(self.part_bytes) - 1:
      return self.num_bytes
    start, end = self.part_bytes[part : part + 2]
    text = self.read(int(start), int(end)).decode()
    return int(start) + len(text[: character - self.part_characters[part]].encode())

  def read(self, start: int, end: int) -> bytes:
    with self.path.open("rb") as file:
      file.seek(start)
      return file.read(end - start)


def scan_text(path: str) -> TextScan:
  """Reads the file at `path`; UserError where it is missing, unreadable, empty or not UTF-8."""
  try:
    status = os.stat(path)
    if not status.st_size and os.path.isfile(path):
      raise UserError(f"the text file {path} is empty; give a file with text in it")
    return _scan(path, status.st_size, status.st_mtime_ns)
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


@functools.lru_cache(maxsize=8)  # by size and time too: the splits of one file scan it once
def _scan(path: str, size: int, mtime_ns: int) -> TextScan:
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
    sha256=checksum.hexdigest(),
    characters="".join(map(chr, np.flatnonzero(seen).tolist())),
    part_bytes=np.array(part_bytes),
    part_characters=np.array(part_characters),
  )


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, start: int, path: str) -> str:
  """The whole characters of `chunk` and what the decoder held back, which began at `start`."""
  try:
    return decoder.decode(chunk, final=not chunk)
  except UnicodeDecodeError as error:
    raise UserError(
      f"the text file {path} is not UTF-8: byte {start + error.start} "
      f"(0x{error.object[error.start]:02x}) starts no character; convert it, for example "
      f"with `iconv -f latin1 -t utf-8`"
    ) from None
