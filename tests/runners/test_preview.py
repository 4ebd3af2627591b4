"""What `runner data` shows is what training reads."""

import dataclasses

import fiddle as fdl
import numpy as np

from input_pipelines.batches import Data
from input_pipelines.loader import RowBatches
from input_pipelines.packing import PackedRows
from input_pipelines.vocabularies import ByteVocabulary
from runners.preview import print_rows

TEXTS = ("hello", "a longer document that runs over into the next row", "bye")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(Data):
  """TEXTS as bytes, without a store."""

  def vocabulary(self):
    return ByteVocabulary()

  def open(self, *, sequence_length, batch_size, seed, **_):
    documents = [[0, *ByteVocabulary().encode(text), 1] for text in TEXTS]
    offsets = np.append(0, np.cumsum([len(document) for document in documents]))
    rows = PackedRows(np.concatenate(documents), offsets, sequence_length)
    return RowBatches(rows, batch_size=batch_size, seed=None, description={"store": "none"})


@dataclasses.dataclass(kw_only=True)
class Run:
  """As much of a Trainer as a preview needs."""

  train_data: Data
  sequence_length: int = 32
  batch_size: int = 1
  seed: int = 0


def config():
  return fdl.Config(Run, train_data=fdl.Config(Texts))


def test_rows_are_shown_with_segments_positions_weights_and_text(capsys):
  print_rows(config(), num_rows=3, build_only=False, cache_dir="")
  header, *rows = capsys.readouterr().out.split("\n\n")
  assert "store:          none" in header
  assert "vocabulary:     ByteVocabulary, 259 ids" in header
  assert "rows per epoch: 2" in header
  assert rows[0].splitlines() == [
    "batch 0 row 0",
    "  segment 1  positions 0-5  weight 6  'hello'",
    "  segment 2  positions 0-25  weight 26  'a longer document that ru'",
  ]
  assert rows[1].splitlines() == [
    "batch 1 row 0",
    "  segment 1  positions 0-24  weight 25  'ns over into the next row'",
    "  segment 2  positions 0-3  weight 4  'bye'",
    "  padding    3 tokens  weight 0",
  ]
  assert len(rows) == 2


def test_build_only_shows_the_facts_without_rows(capsys):
  print_rows(config(), num_rows=3, build_only=True, cache_dir="")
  assert "batch" not in capsys.readouterr().out
