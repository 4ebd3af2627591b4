"""Builds token stores so that a kill at any moment costs little and breaks nothing.

A store grows in `<store>.partial/`. Every few million tokens the files are flushed, and then
progress.json, replaced atomically, records the committed part: sizes, checksums, and the next
element and shard to read. A restart cuts the files to the committed part and continues there,
so no document is missing or double; if the committed part has changed, it starts over. The last
act renames the directory, so a directory with the store's name is complete. A lock on
`<store>.lock`, which dies with its holder, lets one process build while others wait and then
open the result.

Checksums are computed from the data to be written, not from data read back, so that they also
detect errors of the disk.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from input_pipelines.checksummed_files import (
  BLOCK_BYTES,
  DamagedFile,
  block_checksums,
  checksum,
  map_array,
  read_json,
  sync_directory,
  write_json,
)
from input_pipelines.progress import Progress
from input_pipelines.token_store import (
  CHECKSUMS,
  DOCUMENTS,
  INDEX,
  TOKENS,
  WEIGHT_CHECKSUMS,
  WEIGHTS,
  TokenStore,
)
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError

_PROGRESS = "progress.json"
_COMMIT_TOKENS = 4_000_000


@dataclasses.dataclass(frozen=True)
class Piece:
  """Tokens of a document, or of a part of a document too long to tokenise at once."""

  tokens: np.ndarray  # [length] ids
  starts_document: bool = True
  weights: np.ndarray | None = None  # [length] loss weight as a target, 0 or 1; None: all 1


class Tokenised(Protocol):
  """A corpus as tokens: the same elements in the same order at each reading.

  It may also have a dict `notes`, stored when all pieces are read: see TokenStore.notes.
  """

  num_shards: int

  def pieces(self, shard: int, first: int) -> Iterable[Piece]:
    """The pieces of `shard` from number `first` on."""
    ...


@dataclasses.dataclass
class _Progress:
  """The committed part of the files in a partial store, and the next piece to read."""

  num_shards: int
  shard: int = 0
  piece: int = 0  # within the shard
  num_tokens: int = 0
  num_documents: int = 0
  block_checksum: int = 0  # of the unfinished block at the end of the tokens
  documents_checksum: int = 0
  has_weights: bool = False  # whether any loss weight so far is not 1: then all are stored
  weight_block_checksum: int = 0  # of the unfinished block at the end of the weights


def open_or_build(
  path: Path,
  *,
  identity: dict[str, Any],
  vocabulary: Vocabulary,
  tokenise: Callable[[], Tokenised],
  verify: bool = False,
  commit_tokens: int = _COMMIT_TOKENS,
) -> TokenStore:
  """The store at `path`, built if it is missing or damaged (reported on stderr).

  `tokenise` is called only for a build, since it may import TensorFlow. `identity`, of which
  the path's address is a hash, is written to the index for people to read. `verify` checks
  every token of an existing store, even of a large one. Raises UserError if the cache cannot be
  written.
  """
  if not verify:
    with contextlib.suppress(DamagedFile):
      return TokenStore(path)
  with _lock(path):
    before = None
    try:
      store = TokenStore(path)  # another process has built it meanwhile
      store.verify()
      return store
    except DamagedFile as damage:
      if path.exists():
        before = _remove(path, damage)
    _say(f"building token store {path} (once)")
    _Build(path, vocabulary, commit_tokens).run(tokenise(), identity)
    store = _open_new(path, verify)
  if before not in (None, store.index["crc32"]):
    _say(f"warning: {path} holds other tokens than before: what it is made of has changed")
  return store


def _remove(path: Path, damage: DamagedFile) -> dict[str, int] | None:
  """Removes a damaged store; returns its checksums if they are readable."""
  _say(f"token store {path} is damaged ({damage}); building it again")
  checksums = None
  with contextlib.suppress(DamagedFile):
    checksums = read_json(path / INDEX)["crc32"]
  with _writing(path):
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink()
  return checksums


def _open_new(path: Path, verify: bool) -> TokenStore:
  """Opens the store that was just written."""
  try:
    store = TokenStore(path)
    if verify:
      store.verify()
  except DamagedFile as damage:
    raise UserError(
      f"token store {path} is damaged ({damage}) although it was just written: the disk does "
      "not keep what it is given; set STRATA_CACHE to a directory on another one"
    ) from None
  return store


class _Build:
  """One attempt to build a store; it continues where the previous attempt was cut off."""

  def __init__(self, path: Path, vocabulary: Vocabulary, commit_tokens: int):
    self._path = path
    self._partial = path.with_name(path.name + ".partial")
    self._vocabulary = vocabulary
    self._dtype = np.dtype(np.uint16 if vocabulary.vocab_size <= 1 << 16 else np.uint32)
    self._commit_tokens = commit_tokens
    self._pending_tokens: list[np.ndarray] = []
    self._pending_weights: list[np.ndarray] = []
    self._pending_starts: list[int] = []

  def run(self, tokenised: Tokenised, identity: dict[str, Any]) -> None:
    start = time.monotonic()
    with _writing(self._partial):
      self._partial.mkdir(exist_ok=True)
      progress = self._resume(tokenised.num_shards)
    committed = progress.num_tokens
    with Progress("building the token store", unit="tokens") as shown:
      while progress.shard < progress.num_shards:
        for piece in tokenised.pieces(progress.shard, progress.piece):
          self._add(piece, progress)
          shown.advance(len(piece.tokens))
          if progress.num_tokens - committed >= self._commit_tokens:
            self._commit(progress)
            committed = progress.num_tokens
        progress.shard, progress.piece = progress.shard + 1, 0
    self._commit(progress)
    self._finish(progress, identity, getattr(tokenised, "notes", {}))
    _say(
      f"token store ready: {progress.num_tokens:,} tokens, {progress.num_documents:,} "
      f"documents, {time.monotonic() - start:.1f} s"
    )

  def _resume(self, num_shards: int) -> _Progress:
    """The progress of earlier attempts, with the files cut to it; if damaged, a fresh start."""
    progress = _Progress(num_shards)
    with contextlib.suppress(DamagedFile):
      noted = _Progress(**read_json(self._partial / _PROGRESS))
      self._cut(noted)
      if noted.num_shards == num_shards and self._intact(noted):
        progress = noted
    self._cut(progress)
    if progress.num_tokens:
      _say(f"going on after {progress.num_tokens:,} tokens of an unfinished build")
    return progress

  def _sizes(self, progress: _Progress) -> dict[str, int]:
    """File name -> number of committed bytes."""
    num_bytes = progress.num_tokens * self._dtype.itemsize
    sizes = {
      TOKENS: num_bytes,
      CHECKSUMS: num_bytes // BLOCK_BYTES * 4,
      DOCUMENTS: progress.num_documents * 8,
    }
    if progress.has_weights:
      sizes[WEIGHTS] = progress.num_tokens
      sizes[WEIGHT_CHECKSUMS] = progress.num_tokens // BLOCK_BYTES * 4
    return sizes

  def _cut(self, progress: _Progress) -> None:
    if not progress.has_weights:
      (self._partial / WEIGHTS).unlink(missing_ok=True)
      (self._partial / WEIGHT_CHECKSUMS).unlink(missing_ok=True)
    for name, size in self._sizes(progress).items():
      path = self._partial / name
      path.touch()
      os.truncate(path, min(size, path.stat().st_size))

  def _intact(self, progress: _Progress) -> bool:
    """Whether the files match the committed checksums; reading is cheaper than tokenising."""
    parts = {
      name: map_array(self._partial / name, np.dtype(np.uint8), size)
      for name, size in self._sizes(progress).items()
    }
    blocks = [(TOKENS, CHECKSUMS, progress.block_checksum)]
    if progress.has_weights:
      blocks.append((WEIGHTS, WEIGHT_CHECKSUMS, progress.weight_block_checksum))
    for name, checksums_name, noted in blocks:
      checksums, unfinished = block_checksums(parts[name])
      if checksums.tobytes() != parts[checksums_name].tobytes() or unfinished != noted:
        return False
    return checksum(parts[DOCUMENTS]) == progress.documents_checksum

  def _add(self, piece: Piece, progress: _Progress) -> None:
    tokens = np.asarray(piece.tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < self._vocabulary.vocab_size:
      raise UserError(
        f"document {progress.num_documents} holds token ids from {tokens.min()} to "
        f"{tokens.max()}, outside the vocabulary of {self._vocabulary.vocab_size}; its "
        "preprocessors and its vocabulary do not belong together"
      )
    starts = piece.starts_document or progress.num_documents or not tokens.size
    assert starts, "a corpus starts with a document"
    if piece.starts_document:
      self._pending_starts.append(progress.num_tokens)
      progress.num_documents += 1
    self._pending_tokens.append(tokens.astype(self._dtype))
    self._pending_weights.append(_weights(piece))
    progress.num_tokens += tokens.size
    progress.piece += 1

  def _commit(self, progress: _Progress) -> None:
    """Writes the pending data to the disk, and only then the progress that counts them."""
    empty = np.zeros(0, self._dtype)
    tokens = np.concatenate([empty, *self._pending_tokens])
    committed = (progress.num_tokens - len(tokens)) * self._dtype.itemsize
    checksums, progress.block_checksum = block_checksums(
      tokens, committed, progress.block_checksum
    )
    _append(self._partial / TOKENS, tokens)
    _append(self._partial / CHECKSUMS, checksums)
    self._append_documents(self._pending_starts, progress)
    self._append_weights(progress, progress.num_tokens - len(tokens))
    self._pending_tokens, self._pending_weights, self._pending_starts = [], [], []
    with _writing(self._partial / _PROGRESS):
      write_json(self._partial / _PROGRESS, dataclasses.asdict(progress))

  def _append_documents(self, starts: list[int], progress: _Progress) -> None:
    array = np.array(starts, np.int64)
    _append(self._partial / DOCUMENTS, array)
    progress.documents_checksum = checksum(array, progress.documents_checksum)

  def _append_weights(self, progress: _Progress, committed: int) -> None:
    """Appends the pending weights, if any weight so far is not 1."""
    weights = np.concatenate([np.ones(0, np.uint8), *self._pending_weights])
    parts = [weights] if weights.size else []
    if not progress.has_weights:
      if weights.all():
        return
      # The first weight that is not 1: write a 1 for each token already stored before it.
      step = self._commit_tokens
      ones = [np.ones(min(step, committed - i), np.uint8) for i in range(0, committed, step)]
      parts, committed, progress.has_weights = ones + parts, 0, True
    for part in parts:
      checksums, progress.weight_block_checksum = block_checksums(
        part, committed, progress.weight_block_checksum
      )
      _append(self._partial / WEIGHTS, part)
      _append(self._partial / WEIGHT_CHECKSUMS, checksums)
      committed += len(part)

  def _finish(
    self, progress: _Progress, identity: dict[str, Any], notes: Mapping[str, str]
  ) -> None:
    self._append_documents([progress.num_tokens], progress)
    if progress.num_tokens * self._dtype.itemsize % BLOCK_BYTES:
      _append(self._partial / CHECKSUMS, np.array([progress.block_checksum], np.uint32))
    checksums = {
      DOCUMENTS: progress.documents_checksum,
      CHECKSUMS: checksum(np.fromfile(self._partial / CHECKSUMS, np.uint32)),
    }
    if progress.has_weights:
      if progress.num_tokens % BLOCK_BYTES:
        unfinished = np.array([progress.weight_block_checksum], np.uint32)
        _append(self._partial / WEIGHT_CHECKSUMS, unfinished)
      of_weights = np.fromfile(self._partial / WEIGHT_CHECKSUMS, np.uint32)
      checksums[WEIGHT_CHECKSUMS] = checksum(of_weights)
    index = {
      "num_tokens": progress.num_tokens,
      "num_documents": progress.num_documents,
      "dtype": self._dtype.name,
      "vocabulary": self._vocabulary.facts(),
      "identity": identity,
      "crc32": checksums,
    }
    if notes:
      index["notes"] = dict(notes)
    with _writing(self._path):
      write_json(self._partial / INDEX, index)
      os.rename(self._partial, self._path)
      sync_directory(self._path.parent)
      (self._path / _PROGRESS).unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
  """Holds the store at `path` exclusively; the system frees the lock if this process dies."""
  make_cache_directory(path.parent)
  lock = path.with_name(path.name + ".lock")
  with _writing(lock):
    file = lock.open("w")
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _say(f"waiting for the process that is building token store {path}")
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def make_cache_directory(path: Path) -> None:
  """Creates `path` with its parents; UserError if this user may not write there."""
  with contextlib.suppress(OSError):
    path.mkdir(parents=True, exist_ok=True)
  if not os.access(path, os.W_OK | os.X_OK):
    raise UserError(
      f"cannot write to the cache directory {path}; set STRATA_CACHE to a "
      "directory that you can write"
    )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
  """Turns an error in writing to `path` into a UserError."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"cannot write {path} ({error.strerror}); make it writable, make room, or set "
      "STRATA_CACHE to another directory"
    ) from None


def _weights(piece: Piece) -> np.ndarray:
  if piece.weights is None:
    return np.ones(len(piece.tokens), np.uint8)
  assert len(piece.weights) == len(piece.tokens), "a weight for each token"
  return piece.weights.astype(np.uint8)


def _append(path: Path, array: np.ndarray) -> None:
  with _writing(path), path.open("ab") as file:
    file.write(array.tobytes())
    file.flush()
    os.fsync(file.fileno())


def _say(message: str) -> None:
  print(message, file=sys.stderr, flush=True)
