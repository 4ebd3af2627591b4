"""Batches of rows from several sources: at given rates, or every row once an epoch.

With rates, the rows of all batches, end to end, form blocks of 10,000 positions. Each block has
exactly every source's share, in its own order. Each source goes through its epochs at its own
pace, each epoch newly permuted:

    rates web 3, code 1    block 0: 7500 rows of web, 2500 of code, shuffled; block 1: ...

The row at a position is a function of the position alone, as in loader.py, so a mixture resumes
at any step as fast as other data, and on any number of hosts.

Letters: B rows of the global batch, S sources.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipelines.loader import RowBatches
from input_pipelines.packing import NO_ROW, TokenRows
from input_pipelines.permutation import permute
from layers.errors import UserError

BLOCK = 10_000  # positions; a rate is exact to 1 in 10,000
_COUNTED_AT_ONCE = 1 << 16  # positions


class JoinedRows:
  """The rows of several sources under one numbering, source after source (TokenRows)."""

  def __init__(self, parts: Sequence[TokenRows]):
    self._parts = tuple(parts)
    self.starts = np.cumsum([0, *(part.num_rows for part in parts)])  # [S + 1]
    self.num_rows = int(self.starts[-1])

  def source_of(self, indices: np.ndarray) -> np.ndarray:
    """The number of each row's source; 0 for NO_ROW."""
    return np.maximum(np.searchsorted(self.starts, indices, "right") - 1, 0)

  def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    batch: dict[str, np.ndarray] = {}
    for places, part, within in self._by_part(indices):
      for key, value in part.rows(within).items():
        if key not in batch:
          batch[key] = np.zeros((len(indices), *value.shape[1:]), value.dtype)
        batch[key][places] = value
    return batch

  def num_tokens(self, indices: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(indices), np.int64)
    for places, part, within in self._by_part(indices):
      counts[places] = part.num_tokens(within)
    return counts

  def _by_part(self, indices: np.ndarray):
    """(places in `indices`, part, row numbers within it) for each part that has some."""
    source = self.source_of(indices)
    for s in np.unique(source):
      places = np.flatnonzero(source == s)
      rows = indices[places]
      yield places, self._parts[s], np.where(rows == NO_ROW, NO_ROW, rows - self.starts[s])


class MixedBatches(RowBatches):
  """Batches of the rows of several sources (the protocol `Batches`)."""

  def __init__(
    self,
    rows: JoinedRows,
    *,
    sources: Sequence[str],
    shares: Sequence[int] | None = None,
    **order: Any,
  ):
    """`sources` names the parts of `rows`. `order` has the arguments of RowBatches.

    `shares` are the positions of each source in a block: see below. Without them the mixture is
    one corpus, with every row once in an epoch. With them it has no epochs and needs a seed.
    """
    super().__init__(rows, **order)
    self.sources = tuple(sources)
    self._joined = rows
    self._shares = shares
    if shares is not None:
      assert self._seed is not None and self.num_batches is None
      assert sum(shares) == BLOCK
      self._share_starts = np.cumsum([0, *shares])
      self._seeds = [_seed(self._seed, name) for name in sources]
      self._block_order = functools.lru_cache(maxsize=4)(self._order_of_block)

  def _in_order(self, position: np.ndarray) -> np.ndarray:
    if self._shares is None:
      return super()._in_order(position)
    block, place = np.divmod(position, BLOCK)
    source, nth = np.zeros_like(position), np.zeros_like(position)
    for b in np.unique(block).tolist():
      here = block == b
      source[here], nth[here] = self._block_order(b)[:, place[here]]
    index = np.zeros_like(position)
    for s, share in enumerate(self._shares):
      mine = source == s
      start, end = self._joined.starts[s : s + 2]
      epoch, row = np.divmod(block[mine] * share + nth[mine], end - start)
      index[mine] = start + permute(row, int(end - start), self._seeds[s], epoch)
    return index

  def _order_of_block(self, block: int) -> np.ndarray:
    """[2, BLOCK]: the source at each place of a block, and the number of its rows before it."""
    assert self._seed is not None
    place = permute(np.arange(BLOCK), BLOCK, _seed(self._seed, ""), block)
    source = np.searchsorted(self._share_starts, place, "right") - 1
    by_source = np.argsort(source, kind="stable")
    nth = np.zeros_like(source)
    nth[by_source] = np.arange(BLOCK) - self._share_starts[source[by_source]]
    return np.stack([source, nth])

  def tokens_by_source(self, first: int, end: int) -> dict[str, int]:
    """Source -> its tokens in global batches first .. end - 1, over all hosts."""
    counts = np.zeros(len(self.sources), np.int64)
    start, stop = max(0, self.position(first)), max(0, self.position(end))
    for low in range(start, stop, _COUNTED_AT_ONCE):
      indices = self._rows_at(np.arange(low, min(low + _COUNTED_AT_ONCE, stop)))
      source = self._joined.source_of(indices)
      np.add.at(counts, source, self._joined.num_tokens(indices))
    return dict(zip(self.sources, counts.tolist(), strict=True))


def shares(rates: Mapping[str, float]) -> list[int]:
  """The positions of each source in a block, in proportion to its rate; their sum is BLOCK.

  The largest remainders get the positions left by rounding. UserError for impossible rates.
  """
  for name, rate in rates.items():
    if not 0 < rate < np.inf:
      raise UserError(f"the rate of {name!r} is {rate}; give a number above 0, or leave it out")
  exact = {name: BLOCK * rate / sum(rates.values()) for name, rate in rates.items()}
  floors = {name: int(share) for name, share in exact.items()}
  by_remainder = sorted(rates, key=lambda name: floors[name] - exact[name])
  for name in by_remainder[: BLOCK - sum(floors.values())]:
    floors[name] += 1
  for name, share in floors.items():
    if share < 1:
      raise UserError(
        f"the rate of {name!r} is less than 1 in {BLOCK:,} of all; raise it, or leave it out"
      )
  return list(floors.values())


def _seed(seed: int, name: str) -> int:
  """The seed of a source, which does not depend on the other sources."""
  return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())
