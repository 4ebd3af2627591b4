"""Text as training or evaluation data: a seqio task, its token store, and batches of rows.

source -> seqio task -> token store -> packed rows -> batches
          (once, TensorFlow)        (every run, numpy alone)
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from input_pipelines.batches import Data
from input_pipelines.loader import RowBatches
from input_pipelines.packing import DocumentRows, PackedRows, PaddedRows
from input_pipelines.store_builder import Tokenised, open_or_build
from input_pipelines.token_store import TokenStore, store_path
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from layers.ranges import PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData(Data):
  """One split of a text corpus, which a subclass defines.

  Attributes:
    split: the name of the split.
    num_batches: number of batches that evaluation reads; None: the whole split.
    pack: True: documents end to end in each row; False: one document in a row, then padding.
    equal_documents: True: every document has the same weight in the loss, spread over its
      learned tokens, as Large World Model (https://arxiv.org/abs/2402.08268) weighs examples,
      packed or padded. False: every learned token has the same weight.
  """

  split: str = "train"
  num_batches: PositiveInt | None = None
  pack: bool = True
  equal_documents: bool = False

  @abc.abstractmethod
  def vocabulary(self) -> Vocabulary:
    """The tokens' vocabulary: see Data."""

  @abc.abstractmethod
  def name(self) -> str:
    """A readable name for the store, of letters, digits, `_`, `.`, `-`."""

  @abc.abstractmethod
  def identity(self) -> dict[str, Any]:
    """JSON values on which the tokens depend: another identity makes another store."""

  @abc.abstractmethod
  def tokenise(self) -> Tokenised:
    """The split as tokens, from its seqio task. Imports TensorFlow."""

  def num_tokens(self) -> int | None:
    """The split's number of tokens, if known without tokenising, so that it can be checked."""
    return None

  def check(self) -> None:
    """Raises UserError for a wrong configuration, before anything is built."""

  def store(self, cache_dir: str, *, verify: bool = False) -> TokenStore:
    """The split's token store under `cache_dir`, built if missing or damaged.

    `verify` checks all of it now; otherwise a large store is checked as it is read.
    """
    self.check()
    return self._store(self._path(cache_dir), verify)

  def _path(self, cache_dir: str) -> Path:
    return store_path(cache_dir, f"{self.name()}-{self.split}", self._full_identity())

  def _full_identity(self) -> dict[str, Any]:
    vocabulary = self.vocabulary().fingerprint()
    return {**self.identity(), "split": self.split, "vocabulary": vocabulary}

  def _store(self, path: Path, verify: bool = False) -> TokenStore:
    return open_or_build(
      path,
      identity=self._full_identity(),
      vocabulary=self.vocabulary(),
      tokenise=self.tokenise,
      verify=verify,
    )

  def _repaired(self, store: TokenStore) -> TokenStore:
    """Rebuilds a store that a read found damaged; UserError unless its tokens are the same.

    With other tokens the run would silently continue on another text.
    """
    same = self._path(str(store.path.parent)) == store.path
    if same and (repaired := self._store(store.path, verify=True)).content == store.content:
      return repaired
    raise UserError(
      f"the {self.split} data changed while they were read: token store {store.path} is "
      "damaged, and what it was made of gives other tokens now; put back the text as it was, "
      "or begin another run"
    )

  def open_rows(
    self, sequence_length: int, cache_dir: str, *, is_training: bool
  ) -> "OpenedRows":
    """The rows of the split; UserError if there are none, or too few to train on."""
    if sequence_length < 1:
      raise UserError(
        f"sequence_length={sequence_length} leaves nothing to read; set 1 or more"
      )
    # Packed training needs a whole row: nobody wants to train on one padded row repeatedly.
    needed = sequence_length + 1 if is_training and self.pack else 2
    self.check()
    if (known := self.num_tokens()) is not None:
      self._check_size(known, needed)
    store = self._store(self._path(cache_dir))
    rows = self._rows(store, sequence_length)
    self._check_size(rows.num_pairs + 1, needed)
    return OpenedRows(
      rows,
      store.content,
      store.description(),
      store.notes,
      lambda: self._rows(self._repaired(store), sequence_length),
    )

  def open(
    self,
    *,
    sequence_length: int,
    batch_size: int,
    cache_dir: str,
    seed: int | None,
    num_epochs: int | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
  ) -> RowBatches:
    check_counts(num_epochs, self.num_batches, seed)
    opened = self.open_rows(sequence_length, cache_dir, is_training=seed is not None)
    return RowBatches(
      opened.rows,
      batch_size=batch_size,
      seed=seed,
      num_epochs=num_epochs,
      num_batches=self.num_batches,
      shard_index=shard_index,
      num_shards=num_shards,
      content=opened.content,
      description=opened.description,
      notes={"": opened.notes},
      repair=opened.repair,
    )

  def _check_size(self, num_tokens: int, needed: int) -> None:
    if num_tokens < needed:
      raise UserError(
        f"the {self.split} split of {self.name()} has {num_tokens} tokens, and one row takes "
        f"{needed}; give it more text, or set a shorter sequence_length"
      )

  def _rows(self, store: TokenStore, sequence_length: int) -> DocumentRows:
    rows = PackedRows if self.pack else PaddedRows
    return rows(
      store.tokens,
      store.offsets,
      sequence_length,
      store.check,
      store.weights,
      self.equal_documents,
    )


@dataclasses.dataclass(frozen=True)
class OpenedRows:
  """The arguments of RowBatches that come from an opened split: see there."""

  rows: DocumentRows
  content: str
  description: Mapping[str, str]
  notes: Mapping[str, str]
  repair: Callable[[], DocumentRows]


def check_counts(num_epochs: int | None, num_batches: int | None, seed: int | None) -> None:
  """Raises UserError if the limits on reading leave nothing, or contradict each other."""
  for name, count in {"num_epochs": num_epochs, "num_batches": num_batches}.items():
    if count is not None and count < 1:
      raise UserError(f"{name}={count} leaves nothing to read; set 1 or more")
  if seed is not None and num_batches is not None:
    raise UserError(
      f"num_batches={num_batches} limits evaluation data; the length of training is "
      "set by num_steps or num_epochs"
    )
