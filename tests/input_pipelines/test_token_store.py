"""Damage to a store is noticed, said and mended; what it holds has a name."""

import os

import numpy as np
import pytest

from input_pipelines import checksummed_files, token_store
from input_pipelines.checksummed_files import DamagedFile, checksum
from input_pipelines.packing import PackedRows
from input_pipelines.store_builder import Piece
from input_pipelines.token_store import (
  CHECKSUMS,
  DOCUMENTS,
  INDEX,
  TOKENS,
  TokenStore,
  default_cache_dir,
  known_cache_dir,
  store_path,
)
from layers.errors import UserError
from tests.input_pipelines.stored_corpus import (
  Corpus,
  assert_complete,
  build,
  empty_folder,
  file_in_its_place,
  flip_a_bit,
  json_without_entries,
  remove,
  shorten,
)


@pytest.fixture
def large(monkeypatch):
  """Every store counts as too large to be checked whole when it is opened."""
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)


@pytest.mark.parametrize("damage", [remove, shorten, flip_a_bit])
@pytest.mark.parametrize("name", [TOKENS, DOCUMENTS, CHECKSUMS, INDEX])
def test_a_damaged_store_is_said_and_built_again(tmp_path, capsys, name, damage):
  build(tmp_path / "store")
  damage(tmp_path / "store" / name)
  with pytest.raises(DamagedFile):
    TokenStore(tmp_path / "store")
  capsys.readouterr()
  assert_complete(build(tmp_path / "store"))
  damaged, building, ready = capsys.readouterr().err.splitlines()
  assert f"{tmp_path / 'store'} is damaged (" in damaged and "building it again" in damaged
  assert name in damaged
  assert "(once)" in building and "token store ready" in ready
  assert_complete(TokenStore(tmp_path / "store"))


@pytest.mark.parametrize("make", [empty_folder, file_in_its_place, json_without_entries])
def test_what_is_no_store_at_all_is_said_and_replaced(tmp_path, capsys, make):
  make(tmp_path / "store")
  assert_complete(build(tmp_path / "store"))
  assert capsys.readouterr().err.count("is damaged (index.json ") == 1


def test_every_flipped_bit_of_a_large_store_is_found_before_it_is_read(tmp_path, large):
  rows, T = 7, 1 << 14
  tokens = np.random.default_rng(0).integers(0, 259, rows * T + 1)

  class Long(Corpus):
    num_shards = 1

    def pieces(self, shard, first):
      yield from [Piece(tokens)][first:]

  build(tmp_path / "store", Long())
  content = (tmp_path / "store" / "tokens.bin").read_bytes()
  for byte in (0, 65535, 65536, 150_000, len(content) - 1):
    damaged = bytearray(content)
    damaged[byte] ^= 4
    (tmp_path / "store" / "tokens.bin").write_bytes(damaged)
    store = TokenStore(tmp_path / "store")  # only its size is looked at
    packed = PackedRows(store.tokens, store.offsets, T, store.check)
    damaged_rows = set()
    for row in range(rows):
      try:
        packed.rows(np.array([row]))
      except DamagedFile as error:
        block = byte // 65536 * 65536
        assert str(error).startswith(f"tokens.bin has changed between bytes {block} and ")
        damaged_rows.add(row)
    # The rows that lie in the block, with the one token more that a row's last target is.
    touched = {
      row
      for row in range(rows)
      for end in (0, T)
      if (row * T + end) * 2 // 65536 == byte // 65536
    }
    assert damaged_rows == touched


def test_a_block_is_read_for_its_checksum_only_once(tmp_path, large, monkeypatch):
  build(tmp_path / "store")
  store = TokenStore(tmp_path / "store")
  counted = []
  monkeypatch.setattr(
    checksummed_files, "checksum", lambda array: counted.append(1) or checksum(array)
  )
  for _ in range(3):
    store.check(np.array([0, 10]), np.array([5, 100]))
  store.verify()
  assert len(counted) == (tmp_path / "store" / "checksums.bin").stat().st_size // 4


def test_a_large_store_is_checked_whole_when_asked(tmp_path, large, capsys):
  build(tmp_path / "store")
  flip_a_bit(tmp_path / "store" / "tokens.bin")
  build(tmp_path / "store")
  assert "is damaged" not in capsys.readouterr().err
  assert_complete(build(tmp_path / "store", verify=True))
  assert "is damaged (tokens.bin has changed between bytes 0 and" in capsys.readouterr().err


def test_a_store_that_comes_out_another_than_it_was_is_said_and_has_another_content(
  tmp_path, capsys
):
  before = build(tmp_path / "store").content
  flip_a_bit(tmp_path / "store" / "tokens.bin")

  class Other(Corpus):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        yield Piece(piece.tokens[::-1], piece.starts_document)

  after = build(tmp_path / "store", Other()).content
  assert "holds other tokens than before" in capsys.readouterr().err
  assert before != after  # so that a run on the tokens before does not go on with these


def test_other_document_boundaries_are_another_content(tmp_path):
  class Joined(Corpus):
    def pieces(self, shard, first):
      for number, piece in enumerate(super().pieces(shard, first), first):
        yield Piece(piece.tokens, starts_document=(shard, number) == (0, 0))

  one, other = build(tmp_path / "store"), build(tmp_path / "joined" / "store", Joined())
  np.testing.assert_array_equal(one.tokens, other.tokens)
  assert one.content != other.content


def test_a_store_built_again_has_the_content_it_had(tmp_path):
  before = build(tmp_path / "store").content
  flip_a_bit(tmp_path / "store" / "tokens.bin")
  assert build(tmp_path / "store", commit_tokens=1000).content == before


def test_another_identity_is_another_store(tmp_path):
  paths = {store_path(str(tmp_path), "x", identity) for identity in ({}, {"a": 1}, {"a": 2})}
  assert len(paths) == 3
  assert store_path(str(tmp_path), "x", {"a": 1, "b": 2}) == store_path(
    str(tmp_path), "x", {"b": 2, "a": 1}
  )


def test_the_cache_directory_follows_the_environment(monkeypatch):
  monkeypatch.setenv("STRATA_CACHE", "/elsewhere")
  assert default_cache_dir() == "/elsewhere"
  monkeypatch.delenv("STRATA_CACHE")
  monkeypatch.setenv("HOME", "/home/ada")
  assert default_cache_dir() == "/home/ada/.cache/strata"


def test_without_a_home_directory_the_cache_has_to_be_named(monkeypatch):
  monkeypatch.delenv("STRATA_CACHE", raising=False)
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without a passwd entry
  with pytest.raises(UserError, match="no home directory.* STRATA_CACHE=DIR .*--cache_dir=DIR"):
    default_cache_dir()
  assert known_cache_dir() is None
  assert store_path("cache", "x", {}).parent.name == "cache"
