"""A corpus tokenised once: ids in one flat file, memory-mapped, with document boundaries.

    <cache_dir>/<name>-<address>/
      tokens.bin      the ids of all documents end to end, uint16 where the vocabulary fits
      documents.bin   int64 [D + 1], where each document starts, and the number of tokens
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

TOKENS = "tokens.bin"
DOCUMENTS = "documents.bin"
INDEX = "index.json"
FORMAT = 1  # of these files, part of the address

# Up to this size every opening reads the whole file against its checksum (0.05 s). Beyond
# that the sizes must do, and `verify` reads everything when asked.
_CHECKED_WHOLE_BYTES = 64 << 20


class DamagedStore(Exception):
  """The files are not what index.json says."""


class TokenStore:
  """An open store: `tokens` [num_tokens] and `offsets` [D + 1], both memory-mapped."""

  def __init__(self, path: Path):
    """Opens the store at `path`; DamagedStore where it is incomplete or altered."""
    self.path = path
    self.index = _read_index(path)
    dtype = np.dtype(self.index["dtype"])
    self.num_tokens: int = self.index["num_tokens"]
    self.num_documents: int = self.index["num_documents"]
    sizes = {TOKENS: self.num_tokens * dtype.itemsize, DOCUMENTS: 8 * (self.num_documents + 1)}
    for name, size in sizes.items():
      _check_size(path / name, size)
    if sum(sizes.values()) <= _CHECKED_WHOLE_BYTES:
      self.verify()
    self.tokens = _map(path / TOKENS, dtype)
    self.offsets = _map(path / DOCUMENTS, np.dtype(np.int64))

  @property
  def content(self) -> str:
    """The address of what is stored: another text or tokenisation, another address."""
    return self.path.name.rpartition("-")[2]

  def description(self) -> dict[str, str]:
    """Its facts for people."""
    return {
      "store": str(self.path),
      "tokens": f"{self.num_tokens:,} ({self.index['dtype']})",
      "documents": f"{self.num_documents:,}",
    }

  def verify(self) -> None:
    """Reads every byte against the checksums; DamagedStore where one differs."""
    for name, checksum in self.index["sha256"].items():
      if file_checksum(self.path / name) != checksum:
        raise DamagedStore(f"{name} does not have the checksum in {INDEX}")


def default_cache_dir() -> str:
  """Where token stores live unless told otherwise: $STRATA_CACHE, or ~/.cache/strata."""
  return os.environ.get("STRATA_CACHE") or str(Path("~/.cache/strata").expanduser())


def store_path(cache_dir: str, name: str, identity: dict[str, Any]) -> Path:
  """The directory of the store of what `identity` (JSON values) describes."""
  described = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
  address = hashlib.sha256(described.encode()).hexdigest()[:16]
  return Path(cache_dir).expanduser() / f"{name}-{address}"


def file_checksum(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def index_checksum(index: dict[str, Any]) -> str:
  """The checksum that an index carries of its own other entries."""
  entries = {key: value for key, value in index.items() if key != "checksum"}
  return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _read_index(path: Path) -> dict[str, Any]:
  try:
    index = json.loads((path / INDEX).read_bytes())
  except FileNotFoundError:
    raise DamagedStore(f"{INDEX} is missing") from None
  except ValueError:
    raise DamagedStore(f"{INDEX} is not JSON") from None
  if index.get("checksum") != index_checksum(index):
    raise DamagedStore(f"{INDEX} does not have its own checksum")
  return index


def _check_size(path: Path, size: int) -> None:
  try:
    found = path.stat().st_size
  except FileNotFoundError:
    raise DamagedStore(f"{path.name} is missing") from None
  if found != size:
    raise DamagedStore(f"{path.name} has {found} bytes instead of {size}")


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
  if not path.stat().st_size:  # mmap refuses empty files
    return np.zeros(0, dtype)
  # A plain array over the map: np.memmap would run its bookkeeping on every slice.
  return np.asarray(np.memmap(path, dtype, "r"))
