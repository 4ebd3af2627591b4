"""A loss weight stays with its target through the store, splitting and packing."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipelines import checksummed_files, store_builder, token_store
from input_pipelines.batches import INPUTS, SEGMENTS, TARGETS, WEIGHTS
from input_pipelines.checksummed_files import DamagedFile
from input_pipelines.packing import NO_ROW, PackedRows
from input_pipelines.store_builder import Piece
from input_pipelines.token_store import TokenStore
from tests.input_pipelines.stored_corpus import (
  Corpus,
  assert_complete,
  build,
  flip_a_bit,
  remove,
  shorten,
)


class Weighted(Corpus):
  """The corpus with weights, from `first_weighted` on: before it every weight is 1."""

  def __init__(self, pause_s=0.0, first_weighted=(0, 0)):
    super().__init__(pause_s)
    self._first_weighted = first_weighted

  def pieces(self, shard, first):
    for number, piece in enumerate(super().pieces(shard, first), first):
      weights = None
      if (shard, number) >= self._first_weighted and number % 3:
        weights = np.random.default_rng((1, shard, number)).integers(0, 2, len(piece.tokens))
      yield Piece(piece.tokens, piece.starts_document, weights)


def expected_weights(**arguments):
  pieces = [p for shard in range(3) for p in Weighted(**arguments).pieces(shard, 0)]
  ones = [np.ones(len(piece.tokens)) for piece in pieces]
  return np.concatenate(
    [one if p.weights is None else p.weights for one, p in zip(ones, pieces, strict=True)]
  )


def assert_weighted(store, **arguments):
  assert_complete(store)
  np.testing.assert_array_equal(store.weights, expected_weights(**arguments))


@pytest.fixture
def small_blocks(monkeypatch):
  """Blocks of 1 KiB: the corpus fills several, and builds break off inside one."""
  for module in (checksummed_files, store_builder, token_store):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 10)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first_weighted", [(0, 0), (1, 7), (2, 38)])
def test_a_store_has_the_weights_wherever_the_first_comes(tmp_path, first_weighted):
  store = build(tmp_path / "store", Weighted(first_weighted=first_weighted))
  assert_weighted(store, first_weighted=first_weighted)


def test_a_store_whose_weights_are_all_1_has_no_file_of_them(tmp_path):
  class Ones(Corpus):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        yield Piece(piece.tokens, piece.starts_document, np.ones(len(piece.tokens)))

  without, ones = build(tmp_path / "without"), build(tmp_path / "ones", Ones())
  names = sorted(path.name for path in without.path.iterdir())
  assert names == ["checksums.bin", "documents.bin", "index.json", "tokens.bin"]
  assert sorted(path.name for path in ones.path.iterdir()) == names
  for name in names:
    assert (ones.path / name).read_bytes() == (without.path / name).read_bytes()
  assert without.weights is None is ones.weights


def test_other_weights_are_another_content(tmp_path):
  stores = [
    build(tmp_path / name / "store", Weighted(first_weighted=first))
    for name, first in (("a", (0, 0)), ("b", (1, 0)), ("c", (9, 0)))
  ]
  assert len({store.content for store in stores}) == 3
  assert stores[2].content == build(tmp_path / "d" / "store").content  # all 1


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("damage", [remove, shorten, flip_a_bit])
@pytest.mark.parametrize("name", ["weights.bin", "weight_checksums.bin"])
def test_a_store_whose_weights_were_damaged_is_built_again(tmp_path, capsys, name, damage):
  build(tmp_path / "store", Weighted())
  damage(tmp_path / "store" / name)
  assert_weighted(build(tmp_path / "store", Weighted()))
  assert f"is damaged ({name}" in capsys.readouterr().err


def test_weights_of_a_large_store_are_checked_as_they_are_read(tmp_path, monkeypatch):
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)
  build(tmp_path / "store", Weighted())
  flip_a_bit(tmp_path / "store" / "weights.bin")
  store = TokenStore(tmp_path / "store")
  rows = PackedRows(store.tokens, store.offsets, 8, store.check, store.weights)
  with pytest.raises(DamagedFile, match="weights.bin has changed"):
    rows.rows(np.array([0]))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("stop_after", [1, 39, 47, 48, 100, 119])
def test_a_build_that_broke_off_goes_on_with_its_weights(tmp_path, stop_after):
  class Breaking(Weighted):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        if len(self.read) > stop_after:
          raise OSError("the disk with the text is gone")
        yield piece

  with pytest.raises(OSError, match="the text is gone"):
    build(tmp_path / "store", Breaking(first_weighted=(1, 7)))
  rest = Weighted(first_weighted=(1, 7))
  assert_weighted(build(tmp_path / "store", rest), first_weighted=(1, 7))
  assert len(rest.read) <= 120 - stop_after + 4


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("damage", [remove, shorten, flip_a_bit])
@pytest.mark.parametrize("name", ["weights.bin", "weight_checksums.bin"])
def test_an_unfinished_build_whose_weights_were_damaged_starts_over(tmp_path, name, damage):
  class Breaking(Weighted):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        if shard == 2:
          raise OSError("the disk with the text is gone")
        yield piece

  with pytest.raises(OSError, match="is gone"):
    build(tmp_path / "store", Breaking())
  damage(tmp_path / "store.partial" / name)
  rest = Weighted()
  assert_weighted(build(tmp_path / "store", rest))
  assert rest.read[0] == (0, 0)


SLOW_BUILD = """
import sys
from pathlib import Path
from tests.input_pipelines.stored_corpus import build
from tests.input_pipelines.test_stored_weights import Weighted
print("started", flush=True)
build(Path(sys.argv[1]), Weighted(pause_s=0.002, first_weighted=(0, 30)))
"""


def test_kill_9_at_any_moment_then_restart_keeps_every_weight(tmp_path):
  moments = random.Random(0)
  for _ in range(5):
    process = subprocess.Popen(
      [sys.executable, "-c", SLOW_BUILD, str(tmp_path / "store")],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(moments.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.communicate()
  store = build(tmp_path / "store", Weighted(first_weighted=(0, 30)))
  assert_weighted(store, first_weighted=(0, 30))


@pytest.mark.parametrize("sequence_length", [1, 4, 8, 16, 1000])
def test_packing_and_splitting_keep_a_weight_with_its_target(sequence_length):
  lengths = [40, 2, 3, 1, 17, 2, 90, 9]
  offsets = np.append(0, np.cumsum(lengths))
  weights = np.random.default_rng(0).integers(0, 2, offsets[-1]).astype(np.uint8)
  # Ids tell the token and its weight: 2 * place + weight.
  tokens = 2 * np.arange(offsets[-1], dtype=np.uint16) + weights + 2
  rows = PackedRows(tokens, offsets, sequence_length, weights=weights)
  plain = PackedRows(tokens, offsets, sequence_length)
  indices = np.append(np.arange(rows.num_rows), NO_ROW)
  batch, without = rows.rows(indices), plain.rows(indices)
  real = batch[SEGMENTS] > 0
  np.testing.assert_array_equal(batch[WEIGHTS], batch[TARGETS] % 2 * real)
  assert batch[WEIGHTS].dtype == np.float32
  for key in (INPUTS, TARGETS, SEGMENTS):
    np.testing.assert_array_equal(batch[key], without[key])
  np.testing.assert_array_equal(without[WEIGHTS], real)
