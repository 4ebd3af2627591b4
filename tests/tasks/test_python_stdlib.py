"""The standard library is real text, always the same, and a file never changes its split."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from input_pipelines.vocabularies import ByteVocabulary
from layers.errors import UserError
from tasks import python_stdlib
from tasks.python_stdlib import PythonStdlib


def names(split):
  source = python_stdlib._sources()
  return [file.name for file in source.files if file.split == split]


def test_there_is_text_enough_to_train_on():
  sizes = {split: 0 for split in ("train", "validation")}
  for file in python_stdlib._sources().files:
    sizes[file.split] += file.size
  assert sizes["train"] > 5_000_000
  assert 0.01 < sizes["validation"] / sizes["train"] < 0.1


def test_files_are_sources_of_the_library_in_the_order_of_their_names():
  everything = [file.name for file in python_stdlib._sources().files]
  assert everything == sorted(everything)
  assert {"argparse.py", "json/decoder.py", "asyncio/events.py"} <= set(everything)
  for folder in ("site-packages", "test", "tests", "idle_test", "__pycache__"):
    assert not [name for name in everything if folder in name.split("/")]


def test_a_file_stays_in_its_split_whatever_other_files_there_are(tmp_path):
  kept = names("validation")[:5] + names("train")[:5]
  for name in kept:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("x = 1\n")
  fewer = {file.name: file.split for file in python_stdlib._Sources(tmp_path).files}
  assert fewer == {
    file.name: file.split for file in python_stdlib._sources().files if file.name in kept
  }


def test_files_that_are_not_utf_8_are_left_out_by_name(tmp_path):
  (tmp_path / "good.py").write_text("x = 'é'\n")
  (tmp_path / "bad.py").write_bytes("x = 'é'\n".encode("latin-1"))
  sources = python_stdlib._Sources(tmp_path)
  assert [file.name for file in sources.files] == ["good.py"]
  assert sources.undecodable == ["bad.py"]


def test_folders_that_are_left_out_are_not_searched(tmp_path, monkeypatch):
  (tmp_path / "site-packages" / "big").mkdir(parents=True)
  (tmp_path / "json").mkdir()
  for name in ("a.py", "json/b.py", "site-packages/big/c.py", "_sysconfigdata_x.py"):
    (tmp_path / name).write_text("x = 1\n")
  listed, scandir = [], os.scandir
  monkeypatch.setattr(
    os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path)
  )
  assert sorted(python_stdlib._names(tmp_path)) == ["a.py", "json/b.py"]
  assert sorted(listed) == sorted([tmp_path.name, "json"])


def test_a_file_that_changes_before_it_is_tokenised_is_the_users_error(tmp_path):
  (tmp_path / "a.py").write_text("x = 1\n")
  sources = python_stdlib._Sources(tmp_path)
  split = sources.files[0].split
  assert [text.text for text in sources.read(split, 0)] == [b"x = 1\n"]
  (tmp_path / "a.py").write_text("x = 2\n")
  with pytest.raises(UserError, match="a.py changed while it was being read; start again"):
    list(sources.read(split, 0))


def test_a_python_without_sources_is_told_what_to_do(monkeypatch):
  monkeypatch.setattr(
    python_stdlib, "_sources", lambda: python_stdlib._Sources(Path("/nowhere"))
  )
  with pytest.raises(UserError, match="no library sources in .*TextFile"):
    PythonStdlib().check()


def test_an_unknown_split_is_the_users_error():
  with pytest.raises(UserError, match="no split 'test'; it has 'train' and 'validation'"):
    PythonStdlib(split="test").check()


@pytest.mark.slow
def test_each_file_is_stored_as_a_document_between_bos_and_eos(tmp_path):
  store = PythonStdlib(split="validation").store(str(tmp_path))
  vocabulary = ByteVocabulary()
  library = Path(sysconfig.get_path("stdlib"))
  assert store.num_documents == len(names("validation"))
  for name, start, end in zip(
    names("validation"), store.offsets[:-1], store.offsets[1:], strict=True
  ):
    text = (library / name).read_bytes().decode()
    want = [vocabulary.bos_id, *vocabulary.encode(text), vocabulary.eos_id]
    np.testing.assert_array_equal(store.tokens[start:end], want)
