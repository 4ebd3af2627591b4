"""Rows of Hugging Face data sets: on the hub, in local files, or saved by `save_to_disk`.

Loaded data sets are memory-mapped and read in parts; a streamed one is a single part.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import importlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipelines.example_files import refuse_twice
from layers.errors import UserError

PART_ROWS = 100_000
_SAVED = ("dataset_dict.json", "state.json")  # `save_to_disk` writes one of these


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSource:
  """The arguments of `datasets.load_dataset`, or the folder of a saved data set.

  Attributes:
    path: a name on the hub, a kind of file such as 'json' with `data_files`, or a folder.
    subset: of the data set, if it has several.
    data_files: paths, globs or URLs, for a kind of file.
    revision: of the data set on the hub.
    streaming: read over the network, without a copy on this machine.
  """

  path: str
  subset: str | None = None
  data_files: tuple[str, ...] = ()
  revision: str | None = None
  streaming: bool = False

  def rows(self, split: str, num_examples: int | None = None) -> "DatasetRows":
    """The first `num_examples` rows of a split, or all; UserError if there is no such split."""
    fingerprint = self.fingerprint()
    rows = _split(self, fingerprint, split)
    num_rows = None
    if not self.streaming:
      num_rows = len(rows) if num_examples is None else min(len(rows), num_examples)
    starts = (0,) if num_rows is None else tuple(range(0, max(num_rows, 1), PART_ROWS))
    return DatasetRows(self, split, num_examples, fingerprint, num_rows, starts)

  def fingerprint(self) -> str:
    """A hash of builder, data files and revision, or of a saved folder's state and files."""
    if not _is_saved(self.path):
      with _loading(self):
        builder = _datasets().load_dataset_builder(self.path, self.subset, **self._files())
        facts = (builder.dataset_name, builder.config_id, builder.hash, self.revision)
    else:
      files = sorted(path for path in Path(self.path).rglob("*") if path.is_file())
      states = [file.read_text() for file in files if file.name in _SAVED]
      facts = (*states, *((file.name, file.stat().st_size) for file in files))
    return hashlib.sha256(repr(facts).encode()).hexdigest()

  def _files(self) -> dict[str, Any]:
    return {"data_files": list(self.data_files) or None, "revision": self.revision}

  def load(self) -> dict[str, Any]:
    """Split -> rows; streamed rows are not read yet."""
    with _loading(self):
      if not _is_saved(self.path):
        return _datasets().load_dataset(
          self.path, self.subset, streaming=self.streaming, **self._files()
        )
      loaded = _datasets().load_from_disk(self.path)
      return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


@dataclasses.dataclass(frozen=True)
class DatasetRows:
  """One split, read like an ExampleFile: part by part, with rows numbered from 1."""

  source: DatasetSource
  split: str
  num_examples: int | None
  fingerprint: str
  num_rows: int | None  # None: streamed
  parts: tuple[int, ...]  # the first row of each

  @property
  def path(self) -> str:
    return f"{self.source.path}[{self.split}]"

  def read(self, part: int) -> Iterator[tuple[int, dict[str, Any]]]:
    start = self.parts[part]
    with _loading(self.source):
      rows = _split(self.source, self.fingerprint, self.split)
      if self.num_rows is not None:
        rows = rows.select(range(start, min(start + PART_ROWS, self.num_rows)))
      yield from enumerate(itertools.islice(rows, self.num_examples), start + 1)


def check_source(source: DatasetSource) -> None:
  """Raises UserError for contradictory fields, without loading anything."""
  if not source.path:
    raise UserError(
      "which data set? Set path: a name on the Hugging Face hub, a folder that save_to_disk "
      "wrote, or 'json' with data_files"
    )
  if _is_saved(source.path) and (source.streaming or source.data_files or source.subset):
    raise UserError(
      f"{source.path} is a saved data set, of which streaming, data_files and subset mean "
      "nothing; leave them out"
    )
  refuse_twice((path, pattern) for pattern in source.data_files for path in _local(pattern))


def _local(pattern: str) -> list[str]:
  """The local files that an element of data_files names; none if it names files on the hub."""
  return [] if "://" in pattern else sorted(glob.glob(pattern, recursive=True))


def _is_saved(path: str) -> bool:
  return any(os.path.exists(os.path.join(path, name)) for name in _SAVED)


@functools.lru_cache(maxsize=8)
def _loaded(source: DatasetSource, fingerprint: str) -> dict[str, Any]:
  del fingerprint  # only a key of the cache
  return source.load()


def _split(source: DatasetSource, fingerprint: str, split: str) -> Any:
  splits = _loaded(source, fingerprint)
  if split not in splits:
    raise UserError(
      f"the data set {source.path} has no split {split!r}; it has "
      f"{', '.join(map(repr, splits))}: set split, or hold out a part of 'train' with "
      "validation_fraction=0.01"
    )
  return splits[split]


def _datasets() -> Any:
  try:
    datasets = importlib.import_module("datasets")
  except ModuleNotFoundError:
    raise UserError(
      "datasets is needed to read Hugging Face data sets; pip install 'strata[hf]'"
    ) from None
  datasets.disable_progress_bars()
  return datasets


@contextlib.contextmanager
def _loading(source: DatasetSource) -> Iterator[None]:
  """Turns any error in loading or reading the data set into a UserError of one line."""
  try:
    yield
  except (UserError, GeneratorExit):
    raise
  except Exception as error:  # the hub, the network, arrow and builders raise many kinds
    reasons = [str(e) or type(e).__name__ for e in (error, error.__cause__) if e is not None]
    reason = ": ".join(" ".join(reason.split())[:300] for reason in reasons)
    raise UserError(
      f"cannot read the data set {source.path}: {reason}; check path, subset and data_files"
    ) from None


def as_tuple(files: str | Sequence[str] | None) -> tuple[str, ...]:
  """One file, several or None as a tuple."""
  if files is None:
    return ()
  return (files,) if isinstance(files, str) else tuple(files)
