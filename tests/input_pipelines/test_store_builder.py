"""A store holds what was tokenised, whatever happened while it was built."""

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
from input_pipelines.checksummed_files import DamagedFile
from input_pipelines.store_builder import Piece, make_cache_directory, open_or_build
from input_pipelines.token_store import TokenStore
from input_pipelines.vocabularies import PieceVocabulary
from layers.errors import UserError
from tests.input_pipelines.stored_corpus import (
  VOCABULARY,
  Corpus,
  assert_complete,
  build,
  empty_folder,
  file_in_its_place,
  flip_a_bit,
  remove,
  shorten,
)


@pytest.fixture
def small_blocks(monkeypatch):
  """Blocks of 1 KiB: the corpus fills several, and builds break off inside one."""
  for module in (checksummed_files, store_builder, token_store):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 10)


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
from tests.input_pipelines.stored_corpus import Corpus, assert_complete, build
print("started", flush=True)
assert_complete(build(Path(sys.argv[1]), Corpus(pause_s=0.002)))
print("complete", flush=True)
"""


def start_build(path):
  return subprocess.Popen(
    [sys.executable, "-c", SLOW_BUILD, str(path)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
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


def test_a_disk_that_damages_a_new_store_too_is_the_users_error(tmp_path, monkeypatch):
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)
  build(tmp_path / "store")
  flip_a_bit(tmp_path / "store" / "tokens.bin")
  rename = os.rename

  def rename_and_damage(source, target):
    rename(source, target)
    flip_a_bit(target / "tokens.bin")

  monkeypatch.setattr(store_builder.os, "rename", rename_and_damage)
  with pytest.raises(UserError, match="STRATA_CACHE") as error:
    build(tmp_path / "store", verify=True)
  message = str(error.value)
  assert f"{tmp_path / 'store'} is damaged" in message and "\n" not in message
  assert "tokens.bin has changed between bytes 0 and" in message


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


def test_a_cache_directory_that_cannot_be_made_is_the_users_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write to the cache directory .* STRATA_CACHE"):
    make_cache_directory(tmp_path / "file" / "cache")


def test_a_lock_that_cannot_be_opened_is_the_users_error(tmp_path):
  (tmp_path / "store.lock").mkdir()  # root, too, cannot open that for writing
  with pytest.raises(UserError, match=r"cannot write .*store\.lock .* STRATA_CACHE"):
    build(tmp_path / "store")


@pytest.mark.parametrize("make", [empty_folder, file_in_its_place])
def test_a_damaged_store_that_cannot_be_removed_is_the_users_error(tmp_path, monkeypatch, make):
  def refuse(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))

  make(tmp_path / "store")
  monkeypatch.setattr(store_builder.shutil, "rmtree", refuse)
  monkeypatch.setattr(Path, "unlink", refuse)
  with pytest.raises(UserError, match=r"cannot write .*/store .*denied.* STRATA_CACHE"):
    build(tmp_path / "store")


@pytest.mark.parametrize("name", ["progress.json", "index.json"])
def test_a_disk_too_full_for_its_notes_is_one_line_and_the_build_goes_on_later(
  tmp_path, monkeypatch, name
):
  def full(path, entries):
    if path.name == name:
      raise OSError(28, "No space left on device")
    checksummed_files.write_json(path, entries)

  with monkeypatch.context() as patch:
    patch.setattr(store_builder, "write_json", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left.* make room"):
      build(tmp_path / "store")
  assert_complete(build(tmp_path / "store"))
