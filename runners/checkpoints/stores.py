"""The arrays of a checkpoint on disk, each opened on its own by tensorstore.

Orbax opens all arrays at once. If one fails, thousands of log lines from the others hide the
line that names it. So every header is checked here before Orbax reads anything.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from runners.checkpoints.damage import DamagedCheckpoint, reason
from runners.checkpoints.inventory import SavedArray
from runners.devices.memory import host_bytes

_STATE = "state"
_HEADER = ".zarray"

# tensorstore's errors for damaged files.
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, OverflowError, NotImplementedError)


def has_stores(folder: Path) -> bool:
  """Whether a checkpoint has a folder for each array; older ones have one OCDBT database."""
  return not (folder / _STATE / "manifest.ocdbt").exists()


def check_headers(folder: Path, arrays: Mapping[str, SavedArray]) -> None:
  """Raises DamagedCheckpoint unless each of `arrays` is there with its shape and dtype."""
  _opened(folder, arrays)


def read_stores(folder: Path, arrays: Mapping[str, SavedArray]) -> dict[str, np.ndarray]:
  """The values of some arrays; raises DamagedCheckpoint if they cannot be read."""
  reads = {name: store.read() for name, store in _opened(folder, arrays).items()}
  values = {}
  for name, read in reads.items():
    try:
      values[name] = np.asarray(read.result())
    except _DAMAGE as error:
      raise DamagedCheckpoint(f"{name} cannot be read: {reason(error)}") from error
  return values


def header(name: str) -> str:
  """The file in a checkpoint that says the shape and dtype of an array."""
  return f"{_STATE}/{_file_name(name)}/{_HEADER}"


def _file_name(name: str) -> str:
  return name.replace("/", ".")


def _opened(folder: Path, arrays: Mapping[str, SavedArray]) -> dict[str, Any]:
  """Name -> open store; raises DamagedCheckpoint unless shape and dtype are as saved."""
  context = tensorstore.Context()
  opening = {name: _open(folder / _STATE / _file_name(name), context) for name in arrays}
  stores = {}
  for name, opened in opening.items():
    try:
      store = stores[name] = opened.result()
    except _DAMAGE as error:
      is_there = (folder / header(name)).exists()
      why = f"cannot be read: {reason(error)}" if is_there else "is missing"
      raise DamagedCheckpoint(f"{header(name)} {why}") from error
    _check_chunks(name, store, folder / _STATE / _file_name(name))
    found, saved = (store.shape, store.dtype.name), (arrays[name].shape, arrays[name].dtype)
    if found != saved:
      raise DamagedCheckpoint(
        f"{header(name)} is not what was saved: {found[1]}{list(found[0])}, where "
        f"{saved[1]}{list(saved[0])} was"
      )
  return stores


def _check_chunks(name: str, store: Any, folder: Path) -> None:
  """Raises DamagedCheckpoint if the header asks for more memory or files than there are.

  tensorstore aborts the process when an allocation fails.
  """
  chunk = store.chunk_layout.read_chunk.shape or ()
  largest = max(math.prod(store.shape), math.prod(chunk)) * store.dtype.numpy_dtype.itemsize
  if largest > (host_bytes() or largest):
    raise DamagedCheckpoint(
      f"{header(name)} names {largest / 2**30:,.0f} GiB, more than the memory of this machine"
    )
  num_chunks = math.prod(
    -(-size // max(part, 1)) for size, part in zip(store.shape, chunk, strict=True)
  )
  if num_chunks > len(os.listdir(folder)):
    raise DamagedCheckpoint(
      f"{header(name)} names {num_chunks:,} files, of which some are missing"
    )


def _open(folder: Path, context: Any) -> Any:
  store = {"driver": "file", "path": f"{folder}/"}
  spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
  return tensorstore.open(spec, open=True, read=True, context=context)
