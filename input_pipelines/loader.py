"""Batch n from rows: which rows, in which order, on which host.

Training lays all epochs end to end, each in its own order. The rows of global batch n are at
positions n * B .. n * B + B - 1 of that line, so batches run across the seam between two
epochs and no row is dropped or seen twice. With R = 5 rows and B = 4:

    position   0 1 2 3 4 | 5 6 7 8 9 | ...
    row        3 0 4 1 2 | 1 4 2 0 3 | ...
    batch      0 0 0 0 1   1 1 1 2 2

The row is a hash of the position (permutation.py), hence batch 1,000,000 costs what batch 0
does. A run whose batch size changes at batch n keeps its position: the batches from there on
follow it in their own size (`continue_from`). Evaluation is the single epoch 0 .. R - 1, in
order.

The hash takes 0.1 ms a call, mostly whatever the number of positions, so those of many small
batches are looked up together and the last few thousand are kept.

Letters: B rows of the global batch, R rows of an epoch, T tokens of a row.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from input_pipelines.checksummed_files import DamagedFile
from input_pipelines.packing import NO_ROW, Rows
from input_pipelines.permutation import permute
from layers.errors import UserError

_POSITIONS_AT_ONCE = 4096


class RowBatches:
  """Batches of rows (the protocol `Batches`)."""

  def __init__(
    self,
    rows: Rows,
    *,
    batch_size: int,
    seed: int | None,
    num_epochs: int | None = None,
    num_batches: int | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    content: str = "",
    description: Mapping[str, str] | None = None,
    notes: Mapping[str, Mapping[str, str]] | None = None,
    repair: Callable[[], Rows] | None = None,
  ):
    """`seed=None` reads in order, once. `num_batches` cuts a finite stream short.

    `content` names the tokens, `description` says for people where the rows come from,
    `notes` are those of the token stores, by the path below the data's that each is of.
    `repair` gives the same rows anew when reading some has shown that they are damaged.
    """
    if batch_size < 1 or batch_size % num_shards:
      raise UserError(
        f"batch_size={batch_size} cannot be divided among {num_shards} host(s); make it a "
        f"positive multiple of {num_shards}"
      )
    assert 0 <= shard_index < num_shards
    self.content = content
    self.description = dict(description or {})
    self.notes = dict(notes or {})
    self.rows_per_epoch = rows.num_rows
    self.num_batches: int | None = None
    self._rows = rows
    self._repair = repair
    self._repairing = threading.Lock()
    self._seed = seed
    self._batch_size = batch_size
    self._block = np.arange(batch_size // num_shards) + shard_index * (batch_size // num_shards)
    self._origin = 0  # the position of batch 0, or where that would be
    self._num_positions: int | None = None
    if seed is None:
      num_epochs = 1
    if num_epochs is not None:
      self._num_positions = rows.num_rows * num_epochs
      self.num_batches = self._count()
      if num_batches is not None:
        self.num_batches = min(self.num_batches, num_batches)

    self._batches_at_once = max(1, _POSITIONS_AT_ONCE // batch_size)
    # One a stretch, for the one who reads on and for the one who begins anew.
    self._stretch = functools.lru_cache(maxsize=2)(self._look_up)

  def position(self, n: Any) -> Any:
    """How many rows come before global batch n, on all hosts and in all epochs."""
    return n * self._batch_size + self._origin

  def continue_from(self, n: int, position: int) -> None:
    """Makes batch n begin at `position`; those before it were of another size, and are gone."""
    self._origin = position - n * self._batch_size
    self._stretch.cache_clear()
    if self._num_positions is not None:
      self.num_batches = self._count()

  def _count(self) -> int:
    """Batches until all epochs have been read."""
    assert self._num_positions is not None
    return -(-(self._num_positions - self._origin) // self._batch_size)

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    """This host's rows of global batch n, [B / num_shards, T] each."""
    indices, rows = self.row_indices(n), self._rows
    try:
      return rows.rows(indices)
    except DamagedFile:
      if self._repair is None:
        raise
      with self._repairing:  # the thread that reads ahead, or the one that peeks at a batch
        if self._rows is rows:
          self._rows = self._repair()
      return self._rows.rows(indices)

  def row_indices(self, n: int) -> np.ndarray:
    """Which rows these are, [B / num_shards]; NO_ROW after the end of the data."""
    if n < 0 or self.num_batches is not None and n >= self.num_batches:
      raise IndexError(f"batch {n} of {self.num_batches}")
    stretch, nth = divmod(n, self._batches_at_once)
    return self._stretch(stretch)[nth]

  def _look_up(self, stretch: int) -> np.ndarray:
    """The row indices of `stretch`, so many batches in a row, [batches, B / num_shards]."""
    first = stretch * self._batches_at_once
    batch = np.arange(first, first + self._batches_at_once)[:, None]
    # Before the first are none, but a stretch may begin there.
    return self._rows_at(np.maximum(self.position(batch) + self._block, 0))

  def _rows_at(self, position: np.ndarray) -> np.ndarray:
    """The rows at these positions of all epochs laid end to end; NO_ROW after the last."""
    index = self._in_order(position)
    if self._num_positions is not None:
      index = np.where(position < self._num_positions, index, NO_ROW)
    return index

  def _in_order(self, position: np.ndarray) -> np.ndarray:
    epoch, index = np.divmod(position, self.rows_per_epoch)
    if self._seed is not None:
      index = permute(index, self.rows_per_epoch, self._seed, epoch)
    return index
