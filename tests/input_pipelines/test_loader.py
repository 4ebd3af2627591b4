"""Batch n depends on (seed, n) alone; hosts share it out; nothing is dropped or doubled."""

import threading

import numpy as np
import pytest

from input_pipelines import loader
from input_pipelines.batches import SEGMENTS, TARGETS, WEIGHTS
from input_pipelines.checksummed_files import DamagedFile
from input_pipelines.loader import RowBatches
from input_pipelines.packing import PackedRows
from input_pipelines.permutation import permute
from layers.errors import UserError

T = 8


def rows_of(num_rows, ragged=0):
  """A corpus whose every token is another, so that rows can be told by their targets."""
  num_tokens = num_rows * T + 1 - ragged
  return PackedRows(np.arange(num_tokens, dtype=np.uint32), np.array([0, num_tokens]), T)


def targets(batches):
  """All targets of a finite stream that weigh anything."""
  return np.concatenate([batch[TARGETS][batch[WEIGHTS] > 0] for batch in batches])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 23])
def test_each_epoch_holds_every_row_once_across_batch_seams(batch_size):
  R = 10
  batches = RowBatches(rows_of(R), batch_size=batch_size, seed=0)
  order = np.concatenate([batches.row_indices(n) for n in range(40)])[: 4 * R]
  for epoch in order.reshape(4, R):
    assert sorted(epoch) == list(range(R))
  assert len({tuple(epoch) for epoch in order.reshape(4, R)}) == 4


def test_the_same_seed_gives_the_same_batches_and_another_does_not():
  one, same, other = (RowBatches(rows_of(50), batch_size=8, seed=s) for s in (3, 3, 4))
  for n in range(10):
    np.testing.assert_array_equal(one[n][TARGETS], same[n][TARGETS])
  assert any((one[n][TARGETS] != other[n][TARGETS]).any() for n in range(10))


def test_batches_may_be_asked_for_in_any_order():
  batches = RowBatches(rows_of(50), batch_size=8, seed=3)
  forwards = [batches[n][TARGETS] for n in range(20)]
  for n in reversed(range(20)):
    np.testing.assert_array_equal(batches[n][TARGETS], forwards[n])


@pytest.mark.parametrize("batch_size", [1, 8, 5000])
def test_batch_one_million_takes_no_more_work_than_the_first(batch_size, monkeypatch):
  looked_up, gathered = [], []
  monkeypatch.setattr(
    loader,
    "permute",
    lambda index, *args: looked_up.append(index.size) or permute(index, *args),
  )
  rows = rows_of(1000)
  monkeypatch.setattr(rows, "rows", lambda indices: gathered.append(len(indices)))
  for n in (0, 1_000_000):
    RowBatches(rows, batch_size=batch_size, seed=0)[n]
  assert looked_up[0] == looked_up[1] <= max(batch_size, 4096)
  assert gathered == [batch_size, batch_size]


def test_small_batches_share_the_work_of_looking_up_their_rows(monkeypatch):
  calls = []
  monkeypatch.setattr(loader, "permute", lambda *args: calls.append(1) or permute(*args))
  batches = RowBatches(rows_of(1000), batch_size=8, seed=0)
  for n in range(512):
    batches.row_indices(n)
  assert len(calls) == 1


def test_rows_found_damaged_are_read_again_from_what_the_repair_gives():
  class Damaged:
    num_rows = 10

    def rows(self, indices):
      raise DamagedFile("tokens.bin has changed")

  with pytest.raises(DamagedFile, match="tokens.bin has changed"):
    RowBatches(Damaged(), batch_size=4, seed=0)[3]
  repairs = []
  repaired = RowBatches(
    Damaged(), batch_size=4, seed=0, repair=lambda: repairs.append(1) or rows_of(10)
  )
  intact = RowBatches(rows_of(10), batch_size=4, seed=0)
  for n in range(5):
    np.testing.assert_array_equal(repaired[n][TARGETS], intact[n][TARGETS])
  assert repairs == [1]


def test_two_threads_that_find_damage_repair_it_once():
  meeting, repairs = threading.Barrier(2), []

  class Damaged:
    num_rows = 10

    def rows(self, indices):
      meeting.wait(timeout=10)
      raise DamagedFile("tokens.bin has changed")

  batches = RowBatches(
    Damaged(), batch_size=4, seed=0, repair=lambda: repairs.append(1) or rows_of(10)
  )
  read = {}
  threads = [
    threading.Thread(target=lambda n=n: read.update({n: batches[n][TARGETS]})) for n in (0, 1)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  intact = RowBatches(rows_of(10), batch_size=4, seed=0)
  for n in (0, 1):
    np.testing.assert_array_equal(read[n], intact[n][TARGETS])
  assert repairs == [1]


@pytest.mark.parametrize("seed, num_epochs", [(0, None), (0, 2), (None, None)])
@pytest.mark.parametrize("num_shards", [2, 4, 8])
def test_hosts_hold_contiguous_blocks_of_the_same_global_batch(num_shards, seed, num_epochs):
  rows = rows_of(21, ragged=3)
  whole = RowBatches(rows, batch_size=8, seed=seed, num_epochs=num_epochs)
  parts = [
    RowBatches(
      rows,
      batch_size=8,
      seed=seed,
      num_epochs=num_epochs,
      shard_index=i,
      num_shards=num_shards,
    )
    for i in range(num_shards)
  ]
  assert {part.num_batches for part in parts} == {whole.num_batches}
  for n in range(whole.num_batches or 7):
    for key, value in whole[n].items():
      np.testing.assert_array_equal(np.concatenate([part[n][key] for part in parts]), value)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_evaluation_reads_everything_once_in_order_and_pads_the_tail(batch_size):
  rows = rows_of(10, ragged=3)
  batches = RowBatches(rows, batch_size=batch_size, seed=None)
  assert batches.num_batches == -(-10 // batch_size)
  np.testing.assert_array_equal(targets(batches), np.arange(1, 10 * T + 1 - 3))
  last = batches[batches.num_batches - 1]
  assert last[TARGETS].shape == (batch_size, T)
  np.testing.assert_array_equal(last[WEIGHTS] > 0, last[SEGMENTS] > 0)


def test_num_batches_limits_evaluation_but_never_lengthens_it():
  assert len(list(RowBatches(rows_of(10), batch_size=2, seed=None, num_batches=3))) == 3
  assert len(list(RowBatches(rows_of(10), batch_size=2, seed=None, num_batches=99))) == 5


@pytest.mark.parametrize("batch_size", [3, 4, 5])
def test_two_epochs_hold_every_target_exactly_twice(batch_size):
  batches = RowBatches(rows_of(10, ragged=3), batch_size=batch_size, seed=1, num_epochs=2)
  tokens, counts = np.unique(targets(batches), return_counts=True)
  np.testing.assert_array_equal(tokens, np.arange(1, 10 * T + 1 - 3))
  assert set(counts.tolist()) == {2}
  assert sum(len(batch[TARGETS]) for batch in batches) == batches.num_batches * batch_size


def test_a_limited_epoch_count_changes_no_batch_before_the_end():
  endless = RowBatches(rows_of(10), batch_size=4, seed=1)
  limited = RowBatches(rows_of(10), batch_size=4, seed=1, num_epochs=2)
  assert endless.num_batches is None and limited.num_batches == 5
  for n in range(5):
    np.testing.assert_array_equal(endless[n][TARGETS], limited[n][TARGETS])


@pytest.mark.parametrize("n", [-1, 5, 6])
def test_a_batch_outside_the_data_is_an_index_error(n):
  with pytest.raises(IndexError):
    RowBatches(rows_of(10), batch_size=2, seed=None)[n]


def test_a_batch_that_hosts_cannot_share_is_the_users_error():
  with pytest.raises(UserError, match="batch_size=6 .* multiple of 4"):
    RowBatches(rows_of(10), batch_size=6, seed=0, num_shards=4)


@pytest.mark.parametrize("seed, num_epochs", [(0, None), (0, 2)])
@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("before, after", [(4, 6), (6, 4), (4, 14)])
def test_batches_of_another_size_go_on_at_the_row_after_the_last(
  before, after, num_shards, seed, num_epochs
):
  def batches(size, **shard):
    return RowBatches(rows_of(31), batch_size=size, seed=seed, num_epochs=num_epochs, **shard)

  old, whole = batches(before), batches(1)
  parts = [batches(after, shard_index=i, num_shards=num_shards) for i in range(num_shards)]
  for part in parts:
    part.row_indices(0)  # what was looked up before does not stay
    part.continue_from(5, old.position(5))
  new = [row for n in range(5, 8) for part in parts for row in part.row_indices(n)]
  want = [whole.row_indices(n)[0] for n in range(min(5 * before + 3 * after, 62))]
  read = [row for n in range(5) for row in old.row_indices(n)] + new
  assert [row for row in read if row >= 0] == want
  assert parts[0].position(8) == 5 * before + 3 * after
  if num_epochs:
    assert parts[0].num_batches == 5 + -(-(62 - 5 * before) // after)
