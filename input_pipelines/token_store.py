"""A corpus tokenised once: ids in one flat file, memory-mapped, with document boundaries.

    <cache_dir>/<name>-<address>/
      tokens.bin      the ids of all documents end to end, uint16 where the vocabulary fits
      documents.bin   int64 [D + 1], where each document starts, and the number of tokens
      checksums.bin   uint32, the CRC-32 of each block of 64 KiB of tokens.bin
      weights.bin     uint8 [num_tokens], the loss weight of each token as a target, 0 or 1
      weight_checksums.bin   of weights.bin; both are there only where a weight is not 1
      index.json      counts, dtype, vocabulary, checksums, and what the address was made of

The address is a hash of everything the tokens depend on (source, preprocessing, vocabulary):
a change of any makes another store beside this one, and stores are never changed in place.
Opening one needs numpy alone. store_builder.py makes them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from input_pipelines.checksummed_files import (
  BLOCK_BYTES,
  CheckedBlocks,
  DamagedFile,
  checksum,
  map_array,
  read_json,
)
from layers.errors import UserError

TOKENS = "tokens.bin"
DOCUMENTS = "documents.bin"
CHECKSUMS = "checksums.bin"
WEIGHTS = "weights.bin"
WEIGHT_CHECKSUMS = "weight_checksums.bin"
INDEX = "index.json"
OPERATIVE_GIN = "operative_gin"  # a note: with which values gin made the preprocessors run
FORMAT = 1  # what the ids mean, part of the address

# Up to this size an opening checks every token (0.03 s), so that damage is told at the start.
# Of a larger store it shows when a batch first touches it: see checksummed_files.py.
_CHECKED_WHOLE_BYTES = 64 << 20


class TokenStore:
  """An open store: `tokens` [num_tokens] and `offsets` [D + 1], both memory-mapped.

  `weights`, uint8 [num_tokens], mapped too, is None where each is 1. Whoever reads tokens or
  weights calls `check(starts, ends)` for them before, which raises DamagedFile.
  """

  def __init__(self, path: Path):
    """Opens the store at `path`; DamagedFile where it is incomplete or altered."""
    self.path = path
    self.index = read_json(path / INDEX)
    self.num_tokens: int = self.index["num_tokens"]
    self.num_documents: int = self.index["num_documents"]
    self.tokens = map_array(path / TOKENS, np.dtype(self.index["dtype"]), self.num_tokens)
    self.offsets = self._whole(DOCUMENTS, np.dtype(np.int64), self.num_documents + 1)
    self._blocks = [self._checked(TOKENS, self.tokens, CHECKSUMS)]
    self.weights: np.ndarray | None = None
    if WEIGHT_CHECKSUMS in self.index["crc32"]:
      self.weights = map_array(path / WEIGHTS, np.dtype(np.uint8), self.num_tokens)
      self._blocks.append(self._checked(WEIGHTS, self.weights, WEIGHT_CHECKSUMS))
    if self.tokens.nbytes <= _CHECKED_WHOLE_BYTES:
      self.verify()

  @property
  def content(self) -> str:
    """Names the tokens, `<address>:<checksum>`: see `same_content` in batches.py.

    The address is of what they are known to depend on, the checksum of what came out.
    """
    names = [CHECKSUMS, DOCUMENTS]
    if self.weights is not None:
      names.append(WEIGHT_CHECKSUMS)
    checksums = "".join(f"{self.index['crc32'][name]:08x}" for name in names)
    return f"{self.path.name.rpartition('-')[2]}:{checksums}"

  @property
  def notes(self) -> dict[str, str]:
    """What tokenising had to say that a run should keep, by a name for it."""
    return self.index.get("notes", {})

  def description(self) -> dict[str, str]:
    """Its facts for people."""
    return {
      "store": str(self.path),
      "tokens": f"{self.num_tokens:,} ({self.index['dtype']})",
      "documents": f"{self.num_documents:,}",
    }

  def check(self, starts: np.ndarray, ends: np.ndarray) -> None:
    """Of tokens starts[i] up to ends[i] and their weights; DamagedFile where one changed."""
    for blocks in self._blocks:
      blocks.check(starts, ends)

  def verify(self) -> None:
    """Reads every token against its checksum; DamagedFile where one differs."""
    for blocks in self._blocks:
      blocks.check_all()

  def _checked(self, name: str, array: np.ndarray, checksums_name: str) -> CheckedBlocks:
    num_blocks = -(-array.nbytes // BLOCK_BYTES)
    checksums = self._whole(checksums_name, np.dtype(np.uint32), num_blocks)
    return CheckedBlocks(name, array, checksums)

  def _whole(self, name: str, dtype: np.dtype, length: int) -> np.ndarray:
    """A file that is read from end to end in any case."""
    array = map_array(self.path / name, dtype, length)
    if checksum(array) != self.index["crc32"][name]:
      raise DamagedFile(f"{name} does not have the checksum in {INDEX}")
    return array


def default_cache_dir() -> str:
  """Where token stores live unless told otherwise: $STRATA_CACHE, or ~/.cache/strata.

  UserError where there is neither.
  """
  if known := known_cache_dir():
    return known
  raise UserError(
    "this user has no home directory here: say where token stores and compiled programs are "
    "kept, with STRATA_CACHE=DIR in the environment or with --cache_dir=DIR"
  )


def known_cache_dir() -> str | None:
  """`default_cache_dir`, or None: as in a container whose user is not in /etc/passwd."""
  named = os.environ.get("STRATA_CACHE") or os.path.expanduser("~/.cache/strata")
  return None if named.startswith("~") else named


def store_path(cache_dir: str, name: str, identity: dict[str, Any]) -> Path:
  """The directory of the store of what `identity` (JSON values) describes."""
  described = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
  address = hashlib.sha256(described.encode()).hexdigest()[:16]
  return Path(os.path.expanduser(cache_dir)) / f"{name}-{address}"
