"""Makes batch n from rows: which rows, in which order, on which host.

Training lays all epochs end to end, each in its own order. The rows of global batch n are at
positions n * B .. n * B + B - 1 of that line, so a batch may span two epochs, and no row is
dropped or seen twice. With R = 5 rows and B = 4:

    position   0 1 2 3 4 | 5 6 7 8 9 | ...
    row        3 0 4 1 2 | 1 4 2 0 3 | ...
    batch      0 0 0 0 1   1 1 1 2 2

The row is a hash of the position (permutation.py), so batch 1,000,000 costs no more than batch
0. If a run's batch size changes at batch n, its position is kept: later batches continue there
in the new size (`continue_from`). Evaluation is the single epoch 0 .. R - 1, in order.

A call of the hash takes 0.1 ms almost regardless of the number of positions, so the positions
of many small batches are looked up together, and the last few thousand are cached.

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

    `content` names the tokens, and `description` tells people where the rows come from.
    `notes`: path below the data's path -> notes of its token store. `repair` gives the same
    rows anew after a read has found damage.
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
    self._origin = 0  # the position of batch 0, extrapolated after `continue_from`
    self._num_positions: int | None = None
    if seed is None:
      num_epochs = 1
    if num_epochs is not None:
      self._num_positions = rows.num_rows * num_epochs
      self.num_batches = self._count()
      if num_batches is not None:
        self.num_batches = min(self.num_batches, num_batches)

    self._batches_at_once = max(1, _POSITIONS_AT_ONCE // batch_size)
    # Two cached stretches: one for the sequential reader, one for a reader starting over.
    self._stretch = functools.lru_cache(maxsize=2)(self._look_up)

  def position(self, n: Any) -> Any:
    """The number of rows before global batch n, over all hosts and epochs."""
    return n * self._batch_size + self._origin

  def continue_from(self, n: int, position: int) -> None:
    """Makes batch n begin at `position`; earlier batches, of another size, are lost."""
    self._origin = position - n * self._batch_size
    self._stretch.cache_clear()
    if self._num_positions is not None:
      self.num_batches = self._count()

  def _count(self) -> int:
    """The number of batches until all epochs are read."""
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
      with self._repairing:  # two threads may find the damage
        if self._rows is rows:
          self._rows = self._repair()
      return self._rows.rows(indices)

  def row_indices(self, n: int) -> np.ndarray:
    """The numbers of this host's rows of batch n, [B / num_shards]; NO_ROW past the end."""
    if n < 0 or self.num_batches is not None and n >= self.num_batches:
      raise IndexError(f"batch {n} of {self.num_batches}")
    stretch, nth = divmod(n, self._batches_at_once)
    return self._stretch(stretch)[nth]

  def _look_up(self, stretch: int) -> np.ndarray:
    """The row numbers of all batches of a stretch, [batches, B / num_shards]."""
    first = stretch * self._batches_at_once
    batch = np.arange(first, first + self._batches_at_once)[:, None]
    # A stretch may begin before position 0, where there are no rows.
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
