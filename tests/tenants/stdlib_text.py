"""Real text that is always there: the source of a module of the standard library, as bytes."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import fiddle as fdl
import numpy as np

from input_pipelines.batches import Data
from input_pipelines.loader import RowBatches
from input_pipelines.packing import PackedRows
from input_pipelines.vocabularies import ByteVocabulary
from runners import optimizers
from tests.runners.toy_run import toy_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class StdlibText(Data):
  """Each line of argparse.py is a document; every tenth is held out."""

  split: str = "train"

  def vocabulary(self) -> ByteVocabulary:
    return ByteVocabulary()

  def open(self, *, sequence_length: int, cache_dir: str, **order: Any) -> RowBatches:
    lines = Path(argparse.__file__).read_text().splitlines(keepends=True)[:400]
    held_out = lambda n: (n % 10 == 0) == (self.split == "validation")
    documents = [self.vocabulary().encode(x) for n, x in enumerate(lines) if held_out(n)]
    ends = np.append(0, np.cumsum([len(x) for x in documents]))
    tokens = np.concatenate([np.asarray(x, np.uint16) for x in documents])
    rows = PackedRows(tokens, ends, sequence_length)
    return RowBatches(rows, content=f"argparse-{self.split}", **order)


def text_config(**fields: Any) -> fdl.Config:
  """Two scanned layers of width 16 on 16 rows of 12 bytes; `fields` replace the trainer's."""
  defaults = {
    "train_data": fdl.Config(StdlibText),
    "eval_data": {"validation": fdl.Config(StdlibText, split="validation")},
    "optimizer": fdl.Config(optimizers.adamw, learning_rate=1e-3),
    "batch_size": 16,
    "num_steps": 20,
  }
  config = toy_config(dropout_rate=0.1, **defaults | fields)
  config.model.num_layers, config.model.scan_layers = 2, True
  return config
