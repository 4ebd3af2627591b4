"""Files with an example on each line: found, hashed, and read in parts.

They are JSON lines, plain or compressed by gzip (.gz) or zstandard (.zst), or rows of Parquet
(.parquet), on this machine or at any URL that fsspec knows. A plain local file is read in parts
of 16 MiB that end at a line's end, so that an interrupted tokenisation continues at a part; any
other file is one part. Lines count from 1; blank lines at a file's end do not count.
"""

import contextlib
import dataclasses
import datetime
import decimal
import functools
import glob
import gzip
import hashlib
import importlib
import io
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from input_pipelines.line_splitting import BadLines, split_lines, too_long
from layers.errors import UserError

PART_BYTES = 16 << 20
MAX_LINE_BYTES = 64 << 20  # tokenising a line takes some twenty times its size
_CHUNK_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 12  # may decompress to 30,000 times as many
_PARQUET_ROWS = 1024  # in memory at a time
_COMPRESSED = (".gz", ".zst")
_PARQUET = ".parquet"


@dataclasses.dataclass(frozen=True)
class ExampleFile:
  """A file as it was when hashed. Part i starts at parts[i] = (byte, number of lines before).

  `stamp` changes when the file does: local times and inode, or a remote system's facts.
  """

  path: str
  size: int
  stamp: str
  sha256: str
  parts: tuple[tuple[int, int], ...] = ((0, 0),)
  max_line_bytes: int = MAX_LINE_BYTES

  def read(self, part: int) -> Iterator[tuple[int, bytes | dict[str, Any] | BadLines]]:
    """(number, line) for each line of a part; a row of Parquet is a dict.

    A run of blank lines is one BadLines with the number of the first. A line that is too long
    is a BadLines too; no more than `max_line_bytes` of it are ever in memory. Raises UserError
    if the file cannot be read or has changed since it was hashed.
    """
    with _reading(self.path):
      self._check_unchanged()
      with _open(self.path) as file:
        if self.path.endswith(_PARQUET):
          yield from _parquet_rows(file, self.max_line_bytes)
        else:
          yield from self._lines(file, part)
      self._check_unchanged()  # a part may take minutes, and a file may grow

  def _check_unchanged(self) -> None:
    if _stamp(self.path) != (self.size, self.stamp):
      raise UserError(f"{self.path} changed while it was read; start again")

  def _lines(self, file: BinaryIO, part: int) -> Iterator[tuple[int, bytes | BadLines]]:
    start, number = self.parts[part]
    is_last = part == len(self.parts) - 1
    if start:
      file.seek(start)
    chunks = _chunks(file, None if is_last else self.parts[part + 1][0] - start)
    blank = 0
    for line, count in split_lines(chunks, self.max_line_bytes):
      if line is None:
        blank += count
        continue
      if blank:
        yield number + 1, BadLines("empty", "a blank line among others", blank)
      number, blank = number + blank + 1, 0
      yield number, line
    if blank and not is_last:  # at a file's end they do not count
      yield number + 1, BadLines("empty", "a blank line among others", blank)


def content_of(line: bytes | dict[str, Any]) -> bytes:
  """The bytes that represent an example, equal for equal lines."""
  if isinstance(line, bytes):
    return line.strip()
  return json.dumps(line, sort_keys=True, default=_as_json).encode()


def _as_json(value: Any) -> str:
  """A stable text for a value that JSON cannot express.

  For an object such as a decoded image it is the class name, since str() may hold an address.
  """
  is_plain = isinstance(value, bytes | datetime.date | datetime.time | datetime.timedelta)
  return str(value) if is_plain or isinstance(value, decimal.Decimal) else type(value).__name__


def find_files(patterns: str | Sequence[str]) -> list[str]:
  """The files that paths, globs (`**` too) and URLs name; each pattern's files sorted by name.

  Raises UserError if a pattern matches nothing or a file is named twice, even through a link.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  named = [(path, pattern) for pattern in patterns for path in _matches(pattern)]
  if not named:
    raise UserError("no files given; name some, as in files='my/*.jsonl'")
  refuse_twice(named)
  return [path for path, _ in named]


def refuse_twice(named: Iterable[tuple[str, str]]) -> None:
  """Raises UserError if two of the (path, pattern) pairs lead to one file, even by a link."""
  found: dict[Any, tuple[str, str]] = {}  # file -> (its first path, the pattern that named it)
  for path, pattern in named:
    file = _file_behind(path)
    if file not in found:
      found[file] = path, pattern
      continue
    first, by = found[file]
    is_link = os.path.abspath(path) != os.path.abspath(first)
    who = f"by {by}" if by == pattern else f"by {by} and by {pattern}"
    raise UserError(
      f"{path} is named twice, {who}; name each file once"
      + (f": it is a link to the same file as {first}" if is_link else "")
    )


def scan_files(
  paths: Sequence[str], max_line_bytes: int = MAX_LINE_BYTES
) -> tuple[ExampleFile, ...]:
  """Hashes every file; in one process a file is read again only if it has changed."""
  scanned = []
  for path in paths:
    with _reading(path):
      file = _scan(path, *_stamp(path))
      scanned.append(dataclasses.replace(file, max_line_bytes=max_line_bytes))
  return tuple(scanned)


@functools.lru_cache(maxsize=1 << 16)
def _scan(path: str, size: int, stamp: str) -> ExampleFile:
  """One pass over the stored bytes, which are not decompressed."""
  is_divisible = not _is_remote(path) and not path.endswith((*_COMPRESSED, _PARQUET))
  checksum = hashlib.sha256()
  place, lines, content_end = 0, 0, 0
  parts = [(0, 0)]
  with _open_stored(path) as file:
    while chunk := file.read(_CHUNK_BYTES):
      checksum.update(chunk)
      if is_divisible:
        if place >= parts[-1][0] + PART_BYTES and (first := chunk.find(b"\n")) >= 0:
          parts.append((place + first + 1, lines + 1))
        if text := chunk.rstrip():
          content_end = place + len(text)
        lines += chunk.count(b"\n")
      place += len(chunk)
  parts = [part for part in parts if part[0] == 0 or part[0] < content_end]
  return ExampleFile(path, size, stamp, checksum.hexdigest(), tuple(parts))


def _matches(pattern: str) -> list[str]:
  if not pattern:
    raise UserError("an empty file name; name files, as in files='my/*.jsonl'")
  if _is_remote(pattern):
    with _reading(pattern):
      fsspec = _import("fsspec", f"to read {pattern}")
      system, path = fsspec.core.url_to_fs(pattern)
      names = system.glob(path) if glob.has_magic(path) else [path]
      names = [system.unstrip_protocol(name) for name in names]
  else:
    pattern = os.path.expanduser(pattern)
    # A file's own name may have brackets.
    literal = os.path.exists(pattern) or not glob.has_magic(pattern)
    names = [pattern] if literal else glob.glob(pattern, recursive=True)
    names = [name for name in names if literal or not os.path.isdir(name)]
  if not names:
    where = "" if _is_remote(pattern) else f" (looked from {os.getcwd()})"
    raise UserError(f"no file matches {pattern}{where}; check the path, or give another")
  return sorted(names)


def _is_remote(path: str) -> bool:
  return "://" in path


def _file_behind(path: str) -> Any:
  """A key of the file itself: equal for all paths and links that lead to it."""
  if _is_remote(path):
    system, name = _import("fsspec", f"to read {path}").core.url_to_fs(path)
    if "file" not in (
      [system.protocol] if isinstance(system.protocol, str) else system.protocol
    ):
      return path
    path = name
  real = os.path.realpath(path)
  try:
    status = os.stat(real)
  except OSError:  # reading it will report the error
    return real
  # Not all file systems have stable inode numbers, so they count only if hard links exist.
  return (status.st_dev, status.st_ino) if status.st_nlink > 1 else real


def _stamp(path: str) -> tuple[int, str]:
  """The size, and a text that changes when the file is written to."""
  if _is_remote(path):
    system, name = _import("fsspec", f"to read {path}").core.url_to_fs(path)
    facts = {**system.info(name), "ukey": None}
    return int(facts.get("size") or 0), json.dumps(facts, sort_keys=True, default=str)
  status = os.stat(path)
  if os.path.isdir(path):
    raise UserError(f"{path} is a directory; name the files in it, as in {path}/*.jsonl")
  if not stat.S_ISREG(status.st_mode):  # it is read twice, and a device may have no end
    raise UserError(f"{path} is a pipe or a device; write what it gives to a file")
  return status.st_size, f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _open_stored(path: str) -> BinaryIO:
  if _is_remote(path):
    return _import("fsspec", f"to read {path}").open(path, "rb").open()
  return open(path, "rb", buffering=_CHUNK_BYTES)


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
  """The file's content, decompressed."""
  with _open_stored(path) as stored:
    if path.endswith(".gz"):
      with gzip.open(stored) as file:
        yield file  # pyright: ignore[reportReturnType]
    elif path.endswith(".zst"):
      zstandard = _import("zstandard", f"to read {path}")
      with io.BufferedReader(_ZstdReader(stored, zstandard), _CHUNK_BYTES) as file:
        yield file  # pyright: ignore[reportReturnType]
    else:
      yield stored


class _ZstdReader(io.RawIOBase):
  """Decompresses the frames of a stream in turn; EOFError if the last one is incomplete.

  zstandard's own stream_reader does not notice that a file was cut off.
  """

  def __init__(self, stored: BinaryIO, zstandard: Any):
    self._stored = stored
    self._decompressor = zstandard.ZstdDecompressor()
    self._frame: Any = None  # the current frame
    self._compressed = b""
    self._content = memoryview(b"")

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while not self._content:
      if not self._compressed:
        self._compressed = self._stored.read(_ZSTD_BYTES)
      if not self._compressed:
        if self._frame is not None:
          raise EOFError("Compressed file ended in the middle of a frame")
        return 0
      self._frame = self._frame or self._decompressor.decompressobj()
      self._content = memoryview(self._frame.decompress(self._compressed))
      self._compressed = self._frame.unused_data if self._frame.eof else b""
      if self._frame.eof:
        self._frame = None
    count = min(len(buffer), len(self._content))
    buffer[:count] = self._content[:count]
    self._content = self._content[count:]
    return count


def _chunks(file: BinaryIO, num_bytes: int | None) -> Iterator[bytes]:
  """The next `num_bytes` of a file (None: the rest), in chunks of 1 MiB."""
  left = num_bytes if num_bytes is not None else 1 << 62
  while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
    left -= len(chunk)
    yield chunk


def _parquet_rows(
  file: BinaryIO, max_bytes: int
) -> Iterator[tuple[int, dict[str, Any] | BadLines]]:
  parquet = _import("pyarrow.parquet", "to read .parquet files")
  number = 0
  for batch in parquet.ParquetFile(file).iter_batches(_PARQUET_ROWS):
    for row in batch.to_pylist():
      number += 1
      texts = [value for value in row.values() if isinstance(value, str | bytes)]
      is_too_long = sum(map(len, texts)) > max_bytes
      yield number, too_long(max_bytes) if is_too_long else row


def _import(module: str, purpose: str) -> Any:
  package = module.partition(".")[0]
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError:
    raise UserError(f"{package} is needed {purpose}; pip install {package}") from None


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
  """Turns any error in reading the file into a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except FileNotFoundError:
    where = "" if _is_remote(path) else f" (looked from {os.getcwd()})"
    raise UserError(f"no file at {path}{where}; check the path, or give another") from None
  except Exception as error:
    if not (_is_remote(path) or _is_of_a_reader(error)):
      raise
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise UserError(
      f"cannot read {path}: {' '.join(str(cause).split())}; put back a whole, readable file, "
      "or give another"
    ) from None


def _is_of_a_reader(error: Exception) -> bool:
  """Whether an error comes from the system, a decompressor or pyarrow, not from our code."""
  origin = type(error).__module__.partition(".")[0]
  is_of_package = origin in ("zstandard", "zstd", "pyarrow")
  return is_of_package or isinstance(error, OSError | EOFError | zlib.error)


def facts_of(files: Sequence[ExampleFile]) -> Mapping[str, Any]:
  """JSON values that identify the files' contents, made from names, sizes and hashes."""
  described = "".join(f"{Path(file.path).name} {file.size} {file.sha256}\n" for file in files)
  return {"files": len(files), "sha256": hashlib.sha256(described.encode()).hexdigest()}
