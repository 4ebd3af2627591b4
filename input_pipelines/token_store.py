"""A corpus tokenised once: ids in one flat file, memory-mapped, with document boundaries.

    <cache_dir>/<name>-<address>/
      tokens.bin      the ids of all documents end to end, uint16 where the vocabulary fits
      documents.bin   int64 [D + 1], where each document starts, and the number of tokens
      checksums.bin   uint32, the CRC-32 of each block of 64 KiB of tokens.bin
      weights.bin     uint8 [num_tokens], the loss weight of each token as a target, 0 or 1
      weight_checksums.bin   of weights.bin; both files exist only if some weight is not 1
      index.json      counts, dtype, vocabulary, checksums, and the address's ingredients

The address is a hash of everything the tokens depend on (source, preprocessing, vocabulary):
changing any of it makes another store beside this one, and stores never change in place.
Opening one needs only numpy. store_builder.py builds them.
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
OPERATIVE_GIN = "operative_gin"  # key of a note: the gin values in force for the preprocessors
FORMAT = 1  # version of the meaning of ids, part of the address

# Up to this size, opening checks every token (0.03 s), so that damage shows at the start. In a
# larger store it shows when a batch first touches it: see checksummed_files.py.
_CHECKED_WHOLE_BYTES = 64 << 20


class TokenStore:
  """An open store: `tokens` [num_tokens] and `offsets` [D + 1], both memory-mapped.

  `weights`, uint8 [num_tokens], is mapped too, or None if all are 1. Before reading tokens or
  weights call `check(starts, ends)`, which raises DamagedFile.
  """

  def __init__(self, path: Path):
    """Opens the store at `path`; DamagedFile if it is incomplete or altered."""
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
    """The name of the tokens, `<address>:<checksum>`: see `same_content` in batches.py.

    The address is a hash of everything the tokens depend on; the checksum is of the tokens.
    """
    names = [CHECKSUMS, DOCUMENTS]
    if self.weights is not None:
      names.append(WEIGHT_CHECKSUMS)
    checksums = "".join(f"{self.index['crc32'][name]:08x}" for name in names)
    return f"{self.path.name.rpartition('-')[2]}:{checksums}"

  @property
  def notes(self) -> dict[str, str]:
    """Name -> text from tokenising that a run should keep, such as OPERATIVE_GIN."""
    return self.index.get("notes", {})

  def description(self) -> dict[str, str]:
    """Facts about the store, as texts for people."""
    return {
      "store": str(self.path),
      "tokens": f"{self.num_tokens:,} ({self.index['dtype']})",
      "documents": f"{self.num_documents:,}",
    }

  def check(self, starts: np.ndarray, ends: np.ndarray) -> None:
    """Checks tokens starts[i] up to ends[i] and their weights; DamagedFile if one changed."""
    for blocks in self._blocks:
      blocks.check(starts, ends)

  def verify(self) -> None:
    """Checks every token; DamagedFile if one changed."""
    for blocks in self._blocks:
      blocks.check_all()

  def _checked(self, name: str, array: np.ndarray, checksums_name: str) -> CheckedBlocks:
    num_blocks = -(-array.nbytes // BLOCK_BYTES)
    checksums = self._whole(checksums_name, np.dtype(np.uint32), num_blocks)
    return CheckedBlocks(name, array, checksums)

  def _whole(self, name: str, dtype: np.dtype, length: int) -> np.ndarray:
    """A file as an array [length], checked whole."""
    array = map_array(self.path / name, dtype, length)
    if checksum(array) != self.index["crc32"][name]:
      raise DamagedFile(f"{name} does not have the checksum in {INDEX}")
    return array


def default_cache_dir() -> str:
  """The default folder of token stores: $STRATA_CACHE, or ~/.cache/strata.

  Raises UserError if there is neither.
  """
  if known := known_cache_dir():
    return known
  raise UserError(
    "this user has no home directory here: say where token stores and compiled programs are "
    "kept, with STRATA_CACHE=DIR in the environment or with --cache_dir=DIR"
  )


def known_cache_dir() -> str | None:
  """`default_cache_dir`, or None, as for a container's user who is not in /etc/passwd."""
  named = os.environ.get("STRATA_CACHE") or os.path.expanduser("~/.cache/strata")
  return None if named.startswith("~") else named


def store_path(cache_dir: str, name: str, identity: dict[str, Any]) -> Path:
  """The directory of the store with this `identity` (JSON values)."""
  described = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
  address = hashlib.sha256(described.encode()).hexdigest()[:16]
  return Path(os.path.expanduser(cache_dir)) / f"{name}-{address}"
