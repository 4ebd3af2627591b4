"""Each source has exactly its share of every block of rows, and loses none of its own rows."""

import numpy as np
import pytest

from input_pipelines.batches import SEGMENTS, TARGETS, WEIGHTS
from input_pipelines.mixing import BLOCK, JoinedRows, MixedBatches, shares
from input_pipelines.packing import NO_ROW, PackedRows, PaddedRows
from layers.errors import UserError

T = 4
NAMES = ("a", "b", "c")


def rows_of(num_tokens, source, kind=PackedRows):
  """Tokens that tell their source (1000s) and place; the last row is ragged."""
  offsets = np.array([0, num_tokens // 3, num_tokens])
  return kind(np.arange(num_tokens, dtype=np.uint32) + 1000 * source, offsets, T)


def parts(kind=PackedRows):
  return [rows_of(30, 1, kind), rows_of(7, 2, kind), rows_of(101, 3, kind)]


def mixed(kind=PackedRows, shares=(5000, 3000, 2000), seed=0, batch_size=8, **order):
  joined = JoinedRows(parts(kind))
  return MixedBatches(
    joined, sources=NAMES, shares=shares, seed=seed, batch_size=batch_size, **order
  )


def targets(batches, count=None):
  batches = [batches[n] for n in range(count or batches.num_batches)]
  return np.concatenate([batch[TARGETS][batch[WEIGHTS] > 0] for batch in batches])


@pytest.mark.parametrize(
  "rates, want",
  [
    ({"a": 3, "b": 1}, [7500, 2500]),
    ({"a": 0.7, "b": 0.2, "c": 0.1}, [7000, 2000, 1000]),
    ({"a": 1, "b": 1, "c": 1}, [3334, 3333, 3333]),
    ({"a": 1}, [10_000]),
    ({"a": 9999, "b": 1}, [9999, 1]),
  ],
)
def test_a_rate_becomes_a_share_of_each_block(rates, want):
  assert shares(rates) == want and sum(want) == BLOCK


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 1e-9])
def test_a_rate_that_gives_no_share_is_refused(rate):
  with pytest.raises(UserError, match="the rate of 'b' is "):
    shares({"a": 1.0, "b": rate})


def test_joined_rows_are_the_rows_of_each_part():
  joined = JoinedRows(parts())
  indices = np.append(np.random.default_rng(0).permutation(joined.num_rows), NO_ROW)
  batch = joined.rows(indices)
  want = {
    key: np.concatenate([part.rows(np.arange(part.num_rows))[key] for part in parts()])
    for key in batch
  }
  for key, value in batch.items():
    np.testing.assert_array_equal(value[:-1], want[key][indices[:-1]], err_msg=key)
    assert value.dtype == want[key].dtype and not value[-1].any()
  np.testing.assert_array_equal(joined.num_tokens(indices), (batch[SEGMENTS] > 0).sum(axis=1))


def test_every_block_has_the_shares_exactly_and_in_no_order():
  batches = mixed(batch_size=1000)
  for block in range(3):
    indices = np.concatenate(
      [batches.row_indices(n) for n in range(10 * block, 10 * block + 10)]
    )
    source = np.searchsorted(JoinedRows(parts()).starts, indices, "right") - 1
    assert np.bincount(source).tolist() == [5000, 3000, 2000]
    near = np.bincount(source[:1000], minlength=3)  # drawn without replacement
    np.testing.assert_allclose(near, [500, 300, 200], atol=60)


def test_each_source_goes_through_its_rows_epoch_by_epoch():
  batches, starts = mixed(batch_size=1000), JoinedRows(parts()).starts
  indices = np.concatenate([batches.row_indices(n) for n in range(30)])
  for s in range(3):
    size = starts[s + 1] - starts[s]
    mine = indices[(indices >= starts[s]) & (indices < starts[s + 1])] - starts[s]
    epochs = mine[: len(mine) // size * size].reshape(-1, size)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(size), (len(epochs), 1)))
    assert len(np.unique(epochs[:4], axis=0)) > 1 or size < 3  # each in an order of its own


def test_another_seed_is_another_order_and_the_same_one_is_the_same():
  first, again, other = mixed(), mixed(), mixed(seed=1)
  for n in (0, 7, 10**9):
    np.testing.assert_array_equal(first[n][TARGETS], again[n][TARGETS])
  assert any((first[n][TARGETS] != other[n][TARGETS]).any() for n in range(5))


@pytest.mark.parametrize("num_shards", [2, 8])
def test_hosts_hold_contiguous_blocks_of_the_same_mixed_batch(num_shards):
  whole = mixed()
  hosts = [mixed(shard_index=i, num_shards=num_shards) for i in range(num_shards)]
  for n in (0, 3, 5000):
    for key, value in whole[n].items():
      np.testing.assert_array_equal(np.concatenate([host[n][key] for host in hosts]), value)


def count_by_hand(batches, first, end):
  counts = dict.fromkeys(NAMES, 0)
  for n in range(first, end):
    batch = batches[n]
    for token in batch[TARGETS][batch[SEGMENTS] > 0]:
      counts[NAMES[token // 1000 - 1]] += 1
  return counts


@pytest.mark.parametrize("kind", [PackedRows, PaddedRows])
def test_tokens_are_counted_exactly(kind, monkeypatch):
  monkeypatch.setattr("input_pipelines.mixing._COUNTED_AT_ONCE", 50)
  batches = mixed(kind)
  for first, end in ((0, 0), (0, 1), (3, 60), (1249, 1252)):
    assert batches.tokens_by_source(first, end) == count_by_hand(batches, first, end)
  host = mixed(kind, shard_index=1, num_shards=2)
  assert host.tokens_by_source(3, 60) == batches.tokens_by_source(3, 60)


def test_without_shares_an_epoch_has_every_token_of_every_source_once():
  batches = mixed(shares=None, num_epochs=2)
  seen, counts = np.unique(targets(batches), return_counts=True)
  alone = [rows.rows(np.arange(rows.num_rows)) for rows in parts()]
  want = np.concatenate([batch[TARGETS][batch[WEIGHTS] > 0] for batch in alone])
  np.testing.assert_array_equal(seen, np.sort(want))
  assert set(counts.tolist()) == {2}
  num_batches = batches.num_batches
  assert batches.tokens_by_source(0, num_batches) == count_by_hand(batches, 0, num_batches)


def test_without_a_seed_sources_are_read_one_after_another():
  batches = mixed(shares=None, seed=None)
  assert (np.diff(targets(batches)) > 0).all()
