"""Builds token stores so that a kill at any moment costs little and breaks nothing.

A store grows in `<store>.partial/`. Every few million tokens the files are flushed, and then
progress.json, replaced atomically, says how much of them counts: sizes, and which element of
which shard comes next. A restart cuts off whatever lies beyond and goes on from there, so no
document is twice or missing. The last act renames the directory, hence a directory of
the store's name is complete. A lock on `<store>.lock`, which dies with its holder, lets one
process build while others wait for it and then open the result.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from input_pipelines.token_store import (
  DOCUMENTS,
  INDEX,
  TOKENS,
  DamagedStore,
  TokenStore,
  file_checksum,
  index_checksum,
)
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError

_PROGRESS = "progress.json"
_COMMIT_TOKENS = 8_000_000


@dataclasses.dataclass(frozen=True)
class Piece:
  """Tokens of one document, or of a part of one that is too long to tokenise at once."""

  tokens: np.ndarray  # [length] ids
  starts_document: bool = True


class Tokenised(Protocol):
  """A corpus as tokens: the same elements in the same order at each reading."""

  num_shards: int

  def pieces(self, shard: int, first: int) -> Iterable[Piece]:
    """The pieces of `shard` from number `first` on."""
    ...


@dataclasses.dataclass
class _Progress:
  """What counts of the files in a partial store, and the next piece to read."""

  num_shards: int
  shard: int = 0
  piece: int = 0  # within the shard
  num_tokens: int = 0
  num_documents: int = 0


def open_or_build(
  path: Path,
  *,
  identity: dict[str, Any],
  vocabulary: Vocabulary,
  tokenise: Callable[[], Tokenised],
  commit_tokens: int = _COMMIT_TOKENS,
) -> TokenStore:
  """The store at `path`, built if it is not there or is damaged (said on stderr).

  `tokenise` is called only to build: it may import TensorFlow. `identity`, which the path's
  address stands for, is noted in the index for people to read.
  """
  with contextlib.suppress(DamagedStore):
    return TokenStore(path)
  with _lock(path):
    try:
      return TokenStore(path)  # another process has built it meanwhile
    except DamagedStore as damage:
      if path.exists():
        _say(f"token store {path} is damaged ({damage}); building it again")
        shutil.rmtree(path)
    _say(f"building token store {path} (once)")
    _Build(path, vocabulary, commit_tokens).run(tokenise(), identity)
  return TokenStore(path)


class _Build:
  """One attempt at a store, going on where the attempt before it was cut off."""

  def __init__(self, path: Path, vocabulary: Vocabulary, commit_tokens: int):
    self._path = path
    self._partial = path.with_name(path.name + ".partial")
    self._vocabulary = vocabulary
    self._dtype = np.dtype(np.uint16 if vocabulary.vocab_size <= 1 << 16 else np.uint32)
    self._commit_tokens = commit_tokens
    self._pending_tokens: list[np.ndarray] = []
    self._pending_starts: list[int] = []

  def run(self, tokenised: Tokenised, identity: dict[str, Any]) -> None:
    start = time.monotonic()
    self._partial.mkdir(exist_ok=True)
    progress = self._resume(tokenised.num_shards)
    committed = progress.num_tokens
    while progress.shard < progress.num_shards:
      for piece in tokenised.pieces(progress.shard, progress.piece):
        self._add(piece, progress)
        if progress.num_tokens - committed >= self._commit_tokens:
          self._commit(progress)
          committed = progress.num_tokens
      progress.shard, progress.piece = progress.shard + 1, 0
    self._commit(progress)
    self._finish(progress, identity)
    _say(
      f"token store ready: {progress.num_tokens:,} tokens, {progress.num_documents:,} "
      f"documents, {time.monotonic() - start:.1f} s"
    )

  def _resume(self, num_shards: int) -> _Progress:
    """What earlier attempts committed, with the files cut to it."""
    try:
      progress = _Progress(**json.loads((self._partial / _PROGRESS).read_bytes()))
    except FileNotFoundError:
      progress = _Progress(num_shards)
    files = {
      self._partial / TOKENS: progress.num_tokens * self._dtype.itemsize,
      self._partial / DOCUMENTS: progress.num_documents * 8,
    }
    for path in files:
      path.touch()
    lost = any(path.stat().st_size < size for path, size in files.items())
    if lost or progress.num_shards != num_shards:  # someone meddled: nothing to go on from
      progress, files = _Progress(num_shards), dict.fromkeys(files, 0)
    for path, size in files.items():
      os.truncate(path, size)
    if progress.num_tokens:
      _say(f"going on after {progress.num_tokens:,} tokens of an unfinished build")
    return progress

  def _add(self, piece: Piece, progress: _Progress) -> None:
    tokens = np.asarray(piece.tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < self._vocabulary.vocab_size:
      raise UserError(
        f"document {progress.num_documents} holds token ids from {tokens.min()} to "
        f"{tokens.max()}, outside the vocabulary of {self._vocabulary.vocab_size}; its "
        "preprocessors and its vocabulary do not belong together"
      )
    assert piece.starts_document or progress.num_documents, "a corpus starts with a document"
    if piece.starts_document:
      self._pending_starts.append(progress.num_tokens)
      progress.num_documents += 1
    self._pending_tokens.append(tokens.astype(self._dtype))
    progress.num_tokens += tokens.size
    progress.piece += 1

  def _commit(self, progress: _Progress) -> None:
    """First the data reach the disk, then the note that they count."""
    empty = np.zeros(0, self._dtype)
    _append(self._partial / TOKENS, np.concatenate([empty, *self._pending_tokens]))
    _append(self._partial / DOCUMENTS, np.array(self._pending_starts, np.int64))
    self._pending_tokens, self._pending_starts = [], []
    write_json(self._partial / _PROGRESS, dataclasses.asdict(progress))

  def _finish(self, progress: _Progress, identity: dict[str, Any]) -> None:
    _append(self._partial / DOCUMENTS, np.array([progress.num_tokens], np.int64))
    index = {
      "num_tokens": progress.num_tokens,
      "num_documents": progress.num_documents,
      "dtype": self._dtype.name,
      "vocabulary": self._vocabulary.facts(),
      "identity": identity,
      "sha256": {name: file_checksum(self._partial / name) for name in (TOKENS, DOCUMENTS)},
    }
    write_json(self._partial / INDEX, {**index, "checksum": index_checksum(index)})
    os.rename(self._partial, self._path)
    _sync(self._path.parent)
    (self._path / _PROGRESS).unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
  """Holds the store at `path` alone; however this process dies, the system lets go of it."""
  make_cache_directory(path.parent)
  with path.with_name(path.name + ".lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _say(f"waiting for the process that is building token store {path}")
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def make_cache_directory(path: Path) -> None:
  """Makes `path` with its parents; UserError where this user may not write there."""
  with contextlib.suppress(OSError):
    path.mkdir(parents=True, exist_ok=True)
  if not os.access(path, os.W_OK | os.X_OK):
    raise UserError(
      f"cannot write to the cache directory {path}; set STRATA_CACHE to a "
      "directory that you can write"
    )


def write_json(path: Path, value: Any) -> None:
  """Replaces `path` as a whole: a reader finds the old content or the new, never a part."""
  new = path.with_name(f"{path.name}.{os.getpid()}.new")
  with new.open("w") as file:
    json.dump(value, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  os.replace(new, path)
  _sync(path.parent)


def _append(path: Path, array: np.ndarray) -> None:
  with path.open("ab") as file:
    file.write(array.tobytes())
    file.flush()
    os.fsync(file.fileno())


def _sync(directory: Path) -> None:
  """Makes the names in a directory survive a power cut, as fsync does for contents."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _say(message: str) -> None:
  print(message, file=sys.stderr, flush=True)
