"""The interface to data: batch n as a pure function of n, and the configured data that open it.

The data position is the batch number (and the number of rows before it, for a run whose batch
size has changed). There is no iterator state to save, so a run resumes at step 1,000,000 as
fast as at step 0, any past batch can be inspected again, and the number of hosts may change
between two starts.

Letters: B sequences of the global batch, T tokens of a sequence, V ids of the vocabulary.
"""

import abc
from typing import ClassVar, Protocol

import numpy as np

from input_pipelines.vocabularies import Vocabulary

INPUTS = "decoder_input_tokens"  # int32 [B, T]
TARGETS = "decoder_target_tokens"  # int32 [B, T]
POSITIONS = "decoder_positions"  # int32 [B, T], from 0 in each segment
SEGMENTS = "decoder_segment_ids"  # int32 [B, T], from 1 in each row; 0 is padding
WEIGHTS = "decoder_loss_weights"  # float32 [B, T], 0 on padding
TEXT_KEYS = (INPUTS, TARGETS, POSITIONS, SEGMENTS, WEIGHTS)


class Batches(Protocol):
  """Batches 0, 1, 2, ...: the same `n` always gives the same rows.

  `batches[n]` is this host's rows of global batch n; text has seqio's keys (above). Hosts hold
  contiguous blocks of rows, so concatenating them in host order is the global batch, whatever
  the number of hosts. An `n` outside 0 .. num_batches - 1 raises IndexError, which also makes
  a finite `Batches` iterable.

  Batches that let a run change its batch size also have `position(n)` and
  `continue_from(n, position)`: see RowBatches.
  """

  num_batches: int | None  # None: endless; the run's number of steps ends it
  rows_per_epoch: int  # sequences in one pass over the data, all hosts together
  content: str  # a name that changes with the text or its tokens; see same_content()

  def __getitem__(self, n: int) -> dict[str, np.ndarray]: ...


def same_content(noted: str, found: str) -> bool:
  """Whether two content names, `<address>:<checksum>`, stand for the same tokens.

  Older checkpoints, from before there were checksums, have only the address.
  """
  return noted == (found if ":" in noted else found.partition(":")[0])


class Data(abc.ABC):
  """Training or evaluation data as configured; opens batches of them.

  Attributes:
    units: the unit in which the data are counted, as a plural: "tokens", "images", "seconds".
      It is part of metrics' names (`perf/images_per_s`).
  """

  units: ClassVar[str] = "tokens"

  def vocabulary(self) -> Vocabulary | None:
    """The vocabulary, available at once, without tokenising; None: the data are no text."""
    return None

  def units_per_row(self, sequence_length: int) -> float:
    """Units in a row, padding included: `sequence_length` for tokens, 1 for other units."""
    return sequence_length if self.units == "tokens" else 1

  def document_start(self) -> int | None:
    """The id in front of each document, and of each prompt; None if there is none."""
    vocabulary = self.vocabulary()
    return None if vocabulary is None else vocabulary.bos_id

  def example(self, sequence_length: int) -> dict[str, np.ndarray]:
    """One row of padding [1, T] with a batch's keys and dtypes; no data are read."""
    blank = np.zeros((1, sequence_length), np.int32)
    ids = dict.fromkeys((INPUTS, TARGETS, POSITIONS, SEGMENTS), blank)
    return {**ids, WEIGHTS: blank.astype(np.float32)}

  @abc.abstractmethod
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
  ) -> Batches:
    """Batches of `batch_size` rows (over all hosts), text as `sequence_length` tokens each.

    With a `seed`, for training: endless epochs, each in its own order, or `num_epochs` of them,
    with the last batch filled up by rows of weight 0. With `seed=None`, for evaluation: the
    data once and in order, with the last batch filled up likewise, so that a weighted mean
    over the batches is the mean over the whole set at any batch size.

    This host holds block `shard_index` of the `num_shards` blocks of each global batch.
    """
