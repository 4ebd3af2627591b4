"""A store holds what was tokenised, whatever happened while it was built; damage is noticed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipelines import checksummed_files, store_builder, token_store
from input_pipelines.checksummed_files import DamagedFile, checksum
from input_pipelines.packing import PackedRows
from input_pipelines.store_builder import Piece, make_cache_directory, open_or_build
from input_pipelines.token_store import TokenStore, default_cache_dir, store_path
from input_pipelines.vocabularies import ByteVocabulary, PieceVocabulary
from layers.errors import UserError

ROOT = Path(__file__).parents[2]
VOCABULARY = ByteVocabulary()


class Corpus:
  """Three shards of documents, some in parts, all of them different."""

  num_shards = 3
  pieces_per_shard = 40

  def __init__(self, pause_s=0.0):
    self._pause_s = pause_s
    self.read = []

  def pieces(self, shard, first):
    for number in range(first, self.pieces_per_shard):
      time.sleep(self._pause_s)
      self.read.append((shard, number))
      tokens = np.random.default_rng((shard, number)).integers(0, 259, 50 + number)
      # A part of the document before it, at a shard's start too.
      continues = number % 5 == 4 or (shard, number) == (1, 0)
      yield Piece(tokens, starts_document=not continues)

  def expected(self):
    pieces = [piece for shard in range(3) for piece in Corpus().pieces(shard, 0)]
    ends = np.cumsum([len(piece.tokens) for piece in pieces])
    starts = [
      end - len(piece.tokens)
      for piece, end in zip(pieces, ends, strict=True)
      if piece.starts_document
    ]
    return np.concatenate([piece.tokens for piece in pieces]), np.append(starts, ends[-1])


def build(path, corpus=None, **changes):
  arguments = {"identity": {}, "vocabulary": VOCABULARY, "commit_tokens": 200, **changes}
  return open_or_build(path, tokenise=lambda: corpus or Corpus(), **arguments)


def assert_complete(store):
  tokens, offsets = Corpus().expected()
  np.testing.assert_array_equal(store.tokens, tokens)
  np.testing.assert_array_equal(store.offsets, offsets)
  assert store.num_tokens == len(tokens) and store.num_documents == len(offsets) - 1


def test_a_store_holds_all_documents_and_is_built_once(tmp_path, capsys):
  assert_complete(build(tmp_path / "store"))
  assert "(once)" in capsys.readouterr().err

  def fail():
    raise AssertionError("built again")

  store = open_or_build(tmp_path / "store", identity={}, vocabulary=VOCABULARY, tokenise=fail)
  assert_complete(store)
  assert capsys.readouterr().err == ""
  assert store.index["vocabulary"] == VOCABULARY.facts()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("stop_after", [0, 1, 5, 39, 40, 41, 100, 119])
def test_a_build_that_broke_off_goes_on_where_it_was(tmp_path, stop_after):
  class Breaking(Corpus):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        if len(self.read) > stop_after:
          raise OSError("the disk with the text is gone")
        yield piece

  with pytest.raises(OSError, match="the text is gone"):
    build(tmp_path / "store", Breaking())
  assert not (tmp_path / "store").exists()
  rest = Corpus()
  assert_complete(build(tmp_path / "store", rest))
  assert len(rest.read) <= 120 - stop_after + 4  # at most 200 tokens are tokenised again


SLOW_BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests_token_store import Corpus, build, assert_complete
print("started", flush=True)
assert_complete(build(Path({path!r}), Corpus(pause_s=0.002)))
print("complete", flush=True)
"""


def start_build(path):
  # The test module under a name of its own: `tests` is no package.
  load = (
    "import importlib.util, sys; "
    f"spec = importlib.util.spec_from_file_location('tests_token_store', {__file__!r}); "
    "module = importlib.util.module_from_spec(spec); "
    "sys.modules['tests_token_store'] = module; spec.loader.exec_module(module)"
  )
  program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {load}" + SLOW_BUILD.format(
    root=str(ROOT), path=str(path)
  )
  return subprocess.Popen(
    [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def test_kill_9_at_any_moment_then_restart_loses_and_doubles_nothing(tmp_path):
  moments = random.Random(0)
  for _ in range(5):
    process = start_build(tmp_path / "store")
    assert process.stdout.readline() == "started\n"
    time.sleep(moments.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert_complete(build(tmp_path / "store"))


def test_two_processes_build_one_store(tmp_path):
  processes = [start_build(tmp_path / "store") for _ in range(2)]
  outputs = [process.communicate(timeout=60) for process in processes]
  assert [out for out, _ in outputs] == ["started\ncomplete\n"] * 2, outputs
  assert sum("(once)" in err for _, err in outputs) == 1
  assert_complete(TokenStore(tmp_path / "store"))


@pytest.fixture
def small_blocks(monkeypatch):
  """Blocks of 1 KiB: the corpus fills several, and builds break off inside one."""
  for module in (checksummed_files, store_builder, token_store):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 10)


@pytest.fixture
def large(monkeypatch):
  """Every store counts as too large to be checked whole when it is opened."""
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)


def remove(path):
  path.unlink()


def shorten(path):
  os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


FILES = ["tokens.bin", "documents.bin", "checksums.bin", "index.json"]


@pytest.mark.parametrize("damage", [remove, shorten, flip_a_bit])
@pytest.mark.parametrize("name", FILES)
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


def empty_folder(path):
  path.mkdir()


def file_in_its_place(path):
  path.write_text("")


def json_without_entries(path):
  path.mkdir()
  (path / "index.json").write_text("[]")


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


def test_a_store_that_comes_out_another_than_it_was_is_said(tmp_path, capsys):
  build(tmp_path / "store")
  flip_a_bit(tmp_path / "store" / "tokens.bin")

  class Other(Corpus):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        yield Piece(piece.tokens[::-1], piece.starts_document)

  build(tmp_path / "store", Other())
  assert "holds other tokens than before" in capsys.readouterr().err


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("damage", [remove, shorten, flip_a_bit])
@pytest.mark.parametrize(
  "name", ["tokens.bin", "documents.bin", "checksums.bin", "progress.json"]
)
def test_an_unfinished_build_that_was_damaged_starts_over(tmp_path, name, damage):
  class Breaking(Corpus):
    def pieces(self, shard, first):
      for piece in super().pieces(shard, first):
        if shard == 2:
          raise OSError("the disk with the text is gone")
        yield piece

  with pytest.raises(OSError, match="is gone"):
    build(tmp_path / "store", Breaking())
  damage(tmp_path / "store.partial" / name)
  rest = Corpus()
  assert_complete(build(tmp_path / "store", rest))
  assert rest.read[0] == (0, 0)


def test_an_unfinished_build_is_never_opened(tmp_path):
  class Endless(Corpus):
    def pieces(self, shard, first):
      yield from super().pieces(shard, first)
      raise KeyboardInterrupt

  with contextlib.suppress(KeyboardInterrupt):
    build(tmp_path / "store", Endless())
  assert (tmp_path / "store.partial").exists()
  with pytest.raises(DamagedFile):
    TokenStore(tmp_path / "store")


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
  class Wrong(Corpus):
    def pieces(self, shard, first):
      yield Piece(np.array([1, 259]))

  with pytest.raises(UserError, match="from 1 to 259, outside the vocabulary of 259"):
    build(tmp_path / "store", Wrong())


@pytest.mark.parametrize("vocab_size, dtype", [(1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
def test_ids_take_two_bytes_where_they_fit(tmp_path, vocab_size, dtype):
  vocabulary = PieceVocabulary([b"x"] * vocab_size, bos_id=None, eos_id=None)
  assert build(tmp_path / "store", vocabulary=vocabulary).tokens.dtype == dtype


def test_an_empty_corpus_makes_an_empty_store(tmp_path):
  class Empty(Corpus):
    def pieces(self, shard, first):
      return iter(())

  store = build(tmp_path / "store", Empty())
  assert store.num_tokens == store.num_documents == store.tokens.size == 0


def test_another_identity_is_another_store(tmp_path):
  paths = {store_path(str(tmp_path), "x", identity) for identity in ({}, {"a": 1}, {"a": 2})}
  assert len(paths) == 3
  assert store_path(str(tmp_path), "x", {"a": 1, "b": 2}) == store_path(
    str(tmp_path), "x", {"b": 2, "a": 1}
  )


def test_a_cache_directory_that_cannot_be_made_is_the_users_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write to the cache directory .* STRATA_CACHE"):
    make_cache_directory(tmp_path / "file" / "cache")


def test_the_cache_directory_follows_the_environment(monkeypatch):
  monkeypatch.setenv("STRATA_CACHE", "/elsewhere")
  assert default_cache_dir() == "/elsewhere"
  monkeypatch.delenv("STRATA_CACHE")
  monkeypatch.setenv("HOME", "/home/ada")
  assert default_cache_dir() == "/home/ada/.cache/strata"
