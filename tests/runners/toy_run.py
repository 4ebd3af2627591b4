"""A whole run in miniature: text in memory, a model of a few thousand parameters.

Everything here can be imported by name, so that its configs go through config.json and through
the processes that simulate several devices.
"""

import dataclasses
from pathlib import Path
from typing import Any

import fiddle as fdl
import jax
import numpy as np

from input_pipelines.batches import Data
from input_pipelines.loader import RowBatches
from input_pipelines.packing import PackedRows
from input_pipelines.vocabularies import CharacterVocabulary
from layers.attention import Attention
from layers.block import Block
from layers.decoder import Decoder
from layers.feed_forward import FeedForward
from layers.normalization import LayerNorm
from runners import optimizers
from runners.assembly import Assembly, assemble
from runners.checkpoints.retention import Checkpoints
from runners.devices.meshes import MeshShape, place
from runners.train_state import TrainState
from runners.trainer import Precision, Trainer
from tasks.language_modeling import NextToken

LETTERS = "abcdefghijklmnopqrs"  # 19 of them: no mesh axis divides the vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyText(Data):
  """Documents of 2 to 30 random letters: `num_documents` of them, other ones in each split."""

  split: str = "train"
  num_documents: int = 40
  num_batches: int | None = None
  letters: str = LETTERS

  def vocabulary(self) -> CharacterVocabulary:
    return CharacterVocabulary(self.letters)

  def packed_rows(self, sequence_length: int) -> PackedRows:
    generator = np.random.default_rng(len(self.split))
    lengths = generator.integers(2, 31, self.num_documents)
    tokens = generator.integers(0, len(LETTERS), lengths.sum()).astype(np.uint8)
    return PackedRows(tokens, np.append(0, np.cumsum(lengths)), sequence_length)

  def open(self, *, sequence_length: int, cache_dir: str, **order: Any) -> RowBatches:
    return RowBatches(
      self.packed_rows(sequence_length),
      num_batches=self.num_batches,
      content=f"toy-{self.split}-{self.num_documents}",
      **order,
    )


def toy_config(*, dropout_rate: float = 0.0, **fields: Any) -> fdl.Config:
  """A Trainer: a layer of width 16, 8 rows of 12 tokens, plain SGD; `fields` replace these."""
  block = fdl.Config(
    Block,
    attention=fdl.Config(Attention, num_heads=4, dropout_rate=dropout_rate),
    feed_forward=fdl.Config(FeedForward),
    norm=fdl.Config(LayerNorm),
    dropout_rate=dropout_rate,
  )
  model = fdl.Config(
    Decoder,
    num_layers=1,
    model_dim=16,
    block=block,
    norm=fdl.Config(LayerNorm),
    dropout_rate=dropout_rate,
    scan_layers=False,  # compiles faster
  )
  defaults = {
    "model": model,
    "objective": fdl.Config(NextToken),
    "train_data": fdl.Config(ToyText),
    "optimizer": fdl.Config(optimizers.sgdm, learning_rate=1.0, momentum=0.0),
    "mesh": fdl.Config(MeshShape),
    "precision": fdl.Config(Precision),
    "checkpoints": fdl.Config(Checkpoints, every=None),
    "batch_size": 8,
    "sequence_length": 12,
    "num_steps": 4,
  }
  return fdl.Config(Trainer, **defaults | fields)


def begin(config: fdl.Config, cache_dir: str = "unused") -> tuple[Assembly, TrainState]:
  """The parts of the run and its first state."""
  assembly = assemble(config, cache_dir)
  return assembly, assembly.initializer.init()


def take_steps(
  assembly: Assembly, state: TrainState, num_steps: int
) -> tuple[TrainState, list[float]]:
  """The state after `num_steps` more steps, and their losses."""
  train_step, losses = assembly.train_step(), []
  for n in range(num_steps):
    state, loss = train_step(state, place(assembly.batches[n], assembly.batch_sharding))
    losses.append(float(loss))
  return state, losses


def snapshot(tree: Any) -> Any:
  """`tree` in arrays that no donation reaches."""
  return jax.tree.map(np.array, tree)


def assert_bitwise_equal(got: Any, want: Any) -> None:
  """Fails unless both trees have the same structure, dtypes and bits."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    one, other = np.asarray(one), np.asarray(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    np.testing.assert_array_equal(one, other)


def files_under(folder: Path) -> set[str]:
  """Relative names of all files under `folder`."""
  return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
