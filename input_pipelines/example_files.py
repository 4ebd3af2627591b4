"""Files of examples, one a line: found, hashed, and read in parts from where one begins.

Plain JSON lines, compressed by gzip (.gz) or zstandard (.zst), and rows of Parquet (.parquet);
on this machine or at any URL that fsspec knows. Plain local files are read in parts of 16 MiB
that end with a line, so that an interrupted tokenisation goes on at a part; any other file is
one part. Lines count from 1, and blank ones at a file's end are none.
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
MAX_LINE_BYTES = 64 << 20  # a line takes some twenty times its size while it is tokenised
_CHUNK_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 12  # which may become 30,000 times as many
_PARQUET_ROWS = 1024  # in memory at a time
_COMPRESSED = (".gz", ".zst")
_PARQUET = ".parquet"


@dataclasses.dataclass(frozen=True)
class ExampleFile:
  """A file as it was when it was hashed. Part i starts at parts[i]: a byte, and lines before.

  `stamp` changes with the file's content: its size and times, or what a remote system says.
  """

  path: str
  size: int
  stamp: str
  sha256: str
  parts: tuple[tuple[int, int], ...] = ((0, 0),)
  max_line_bytes: int = MAX_LINE_BYTES

  def read(self, part: int) -> Iterator[tuple[int, bytes | dict[str, Any] | BadLines]]:
    """(number, line) of each line of a part; of Parquet, the rows as dicts.

    Blank lines in a row are one BadLines with the number of the first, and so is a line that
    is too long, of which no more than `max_line_bytes` are ever in memory. UserError where the
    file cannot be read, or is not the one that was hashed any more.
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
    if blank and not is_last:  # at a file's end they are none
      yield number + 1, BadLines("empty", "a blank line among others", blank)


def content_of(line: bytes | dict[str, Any]) -> bytes:
  """The bytes that stand for an example: equal for equal lines."""
  if isinstance(line, bytes):
    return line.strip()
  return json.dumps(line, sort_keys=True, default=_as_json).encode()


def _as_json(value: Any) -> str:
  """What stands for a value that JSON has not, always the same.

  The text of an object such as a decoded image may have its address in memory.
  """
  is_plain = isinstance(value, bytes | datetime.date | datetime.time | datetime.timedelta)
  return str(value) if is_plain or isinstance(value, decimal.Decimal) else type(value).__name__


def find_files(patterns: str | Sequence[str]) -> list[str]:
  """The files that paths, globs (`**` too) and URLs name, each pattern's in order of names.

  UserError where a pattern matches nothing, or a file is named twice, also by a link to it.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  named = [(path, pattern) for pattern in patterns for path in _matches(pattern)]
  if not named:
    raise UserError("no files given; name some, as in files='my/*.jsonl'")
  refuse_twice(named)
  return [path for path, _ in named]


def refuse_twice(named: Iterable[tuple[str, str]]) -> None:
  """UserError where two of (path, pattern that names it) are one file, also by a link."""
  found: dict[Any, tuple[str, str]] = {}  # by the file: its first path, and who named it
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
  """Reads every file to hash it, once in a process as long as it does not change."""
  scanned = []
  for path in paths:
    with _reading(path):
      file = _scan(path, *_stamp(path))
      scanned.append(dataclasses.replace(file, max_line_bytes=max_line_bytes))
  return tuple(scanned)


@functools.lru_cache(maxsize=1 << 16)
def _scan(path: str, size: int, stamp: str) -> ExampleFile:
  """One pass over the bytes as they are stored, compressed or not."""
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
    # A file may well have brackets in its name.
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
  """Equal for equal files, whichever spelling or link names them."""
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
  except OSError:  # reading it says what is wrong
    return real
  # Not all file systems number their files, so numbers are compared where hard links exist.
  return (status.st_dev, status.st_ino) if status.st_nlink > 1 else real


def _stamp(path: str) -> tuple[int, str]:
  """The size, and what else tells that a file was written to."""
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
  """The frames of a stream, one after another. EOFError where the last one is not whole.

  zstandard's own stream_reader takes a file that was cut off for one that ends there.
  """

  def __init__(self, stored: BinaryIO, zstandard: Any):
    self._stored = stored
    self._decompressor = zstandard.ZstdDecompressor()
    self._frame: Any = None  # the one that has begun
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
  """The next `num_bytes` of a file, or all that are left, in pieces that fit in memory."""
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
  """UserError, in one line, for whatever keeps the file from being read."""
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
  """Of the system, a decompressor or pyarrow; what reads URLs has errors of many kinds."""
  origin = type(error).__module__.partition(".")[0]
  is_of_package = origin in ("zstandard", "zstd", "pyarrow")
  return is_of_package or isinstance(error, OSError | EOFError | zlib.error)


def facts_of(files: Sequence[ExampleFile]) -> Mapping[str, Any]:
  """What identifies the files' contents, as JSON values: names, sizes and hashes."""
  described = "".join(f"{Path(file.path).name} {file.size} {file.sha256}\n" for file in files)
  return {"files": len(files), "sha256": hashlib.sha256(described.encode()).hexdigest()}
