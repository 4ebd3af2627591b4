"""A text file is read whole, in order, split where nanoGPT splits it, or refused in a line."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipelines import text_scan
from input_pipelines.text_scan import scan_text
from layers.errors import UserError
from tasks.text_file import TextFile

ROOT = Path(__file__).parents[2]
TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 🙂\n" * 40


@pytest.fixture
def text_path(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text(TEXT)
  return str(path)


@pytest.fixture
def small_parts(monkeypatch):
  """Parts of 7 bytes: characters and documents straddle them."""
  monkeypatch.setattr(text_scan, "PART_BYTES", 7)
  text_scan._scan.cache_clear()
  yield
  text_scan._scan.cache_clear()


@pytest.mark.usefixtures("small_parts")
def test_the_scan_finds_the_byte_of_every_character(text_path):
  scan = scan_text(text_path)
  assert scan.num_characters == len(TEXT) and scan.num_bytes == len(TEXT.encode())
  assert scan.characters == "".join(sorted(set(TEXT)))
  for character in (*range(80), len(TEXT) - 1, len(TEXT)):
    assert scan.byte_of(character) == len(TEXT[:character].encode())


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_parts_of_both_splits_are_the_file(text_path, fraction):
  source = TextFile(path=text_path, validation_fraction=fraction).source()
  read = {
    split: [
      text for shard in range(source.num_shards(split)) for text in source.read(split, shard)
    ]
    for split in source.splits
  }
  cut = int(len(TEXT) * (1 - fraction))
  assert b"".join(text.text for text in read["train"]).decode() == TEXT[:cut]
  assert b"".join(text.text for text in read["validation"]).decode() == TEXT[cut:]
  for texts in filter(None, read.values()):  # one document each
    assert [text.starts_document for text in texts] == [True] + [False] * (len(texts) - 1)
    assert [text.ends_document for text in texts] == [False] * (len(texts) - 1) + [True]


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_stored_tokens_are_the_vocabularys_ids_of_the_text(text_path, tmp_path, tokens):
  train = TextFile(path=text_path, tokens=tokens)
  vocabulary = train.vocabulary()
  bos, eos = [[i] if i is not None else [] for i in (vocabulary.bos_id, vocabulary.eos_id)]
  cut = int(len(TEXT) * 0.9)
  for split, text in (("train", TEXT[:cut]), ("validation", TEXT[cut:])):
    data = TextFile(path=text_path, tokens=tokens, split=split)
    store = data.store(str(tmp_path / "cache"))
    np.testing.assert_array_equal(store.tokens, [*bos, *vocabulary.encode(text), *eos])
    assert store.num_documents == 1


@pytest.mark.slow
def test_a_task_may_be_asked_for_twice(text_path):
  data = TextFile(path=text_path)
  assert data.seqio_task() is data.seqio_task()


@pytest.mark.slow
def test_a_store_that_exists_is_opened_without_tensorflow(text_path, tmp_path):
  program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tasks.text_file import TextFile
cache = {str(tmp_path / "cache")!r}
data = TextFile(path={text_path!r})
for seed in (0, None):
  data.open(sequence_length=8, batch_size=2, cache_dir=cache, seed=seed)[0]
print(sorted({{"tensorflow", "seqio", "jax"}} & set(sys.modules)))
"""
  loaded = [
    subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for _ in range(2)
  ]
  assert "tensorflow" in loaded[0].stdout
  assert loaded[1].stdout == "[]\n"


def test_another_content_is_another_store(text_path):
  before = TextFile(path=text_path).identity()
  Path(text_path).write_text(TEXT + "!")
  assert TextFile(path=text_path).identity() != before


def scans(text_path, monkeypatch):
  """What a start that knows only the cache finds, and how often it read the whole file."""
  passes = []
  pass_over = text_scan._pass_over
  monkeypatch.setattr(
    text_scan, "_pass_over", lambda *args: passes.append(1) or pass_over(*args)
  )
  text_scan._scan.cache_clear()
  scan = scan_text(text_path)
  monkeypatch.setattr(text_scan, "_pass_over", pass_over)
  return scan, len(passes)


@pytest.fixture
def noted(tmp_path, monkeypatch):
  """Files of any size and age are noted, in a cache of the test's own."""
  monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(text_scan, "_NOTED_BYTES", 0)
  monkeypatch.setattr(text_scan, "_SETTLED_S", -1.0)
  yield tmp_path / "cache" / "texts"
  text_scan._scan.cache_clear()


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_that_is_as_it_was_is_not_read_again(text_path, noted, monkeypatch):
  first, passes = scans(text_path, monkeypatch)
  assert passes == 1
  again, passes = scans(text_path, monkeypatch)
  assert passes == 0
  for field in dataclasses.fields(first):
    np.testing.assert_array_equal(getattr(again, field.name), getattr(first, field.name))
    assert type(getattr(again, field.name)) is type(getattr(first, field.name))


def another_text_of_the_same_size_and_time(path):
  status = os.stat(path)
  Path(path).write_text(TEXT.replace("Z", "z"))
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def another_file_in_its_place(path):
  status = os.stat(path)
  Path(path + ".new").write_text(TEXT.replace("Z", "z"))
  os.utime(path + ".new", ns=(status.st_atime_ns, status.st_mtime_ns))
  os.replace(path + ".new", path)


@pytest.mark.parametrize(
  "change", [another_text_of_the_same_size_and_time, another_file_in_its_place]
)
def test_a_large_file_that_may_have_changed_is_read_again(
  text_path, noted, monkeypatch, change
):
  before, _ = scans(text_path, monkeypatch)
  time.sleep(0.05)  # more than a tick of the clock that dates files
  change(text_path)
  after, passes = scans(text_path, monkeypatch)
  assert passes == 1 and after.sha256 != before.sha256


def test_nothing_is_noted_of_a_file_that_was_just_written(text_path, noted, monkeypatch):
  monkeypatch.setattr(text_scan, "_SETTLED_S", 60.0)
  scans(text_path, monkeypatch)
  assert scans(text_path, monkeypatch)[1] == 1
  assert not noted.exists()


def test_notes_that_were_damaged_are_made_again(text_path, noted, monkeypatch):
  first, _ = scans(text_path, monkeypatch)
  (file,) = noted.iterdir()
  file.write_text(file.read_text().replace(first.sha256, "0" * 64))
  again, passes = scans(text_path, monkeypatch)
  assert passes == 1 and again.sha256 == first.sha256


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_tokenised_is_the_users_error(text_path):
  Path(text_path).write_text(TEXT + "?")  # its task is named by its content
  data = TextFile(path=text_path)
  tokenised = data.tokenise()
  Path(text_path).write_text(TEXT.upper())
  with pytest.raises(UserError, match="changed while it was read; start again"):
    list(tokenised.pieces(0, 0))


def latin1(path):
  path.write_bytes(b"x" * 5000 + "é".encode("latin-1") + b"y")


def cut_off(path):
  path.write_bytes(b"x" * 5000 + "é".encode()[:1])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("write", [latin1, cut_off])
def test_a_file_that_is_not_utf_8_is_told_at_which_byte(tmp_path, write):
  write(tmp_path / "bad.txt")
  with pytest.raises(UserError, match=r"is not UTF-8: byte 5000 \(0x"):
    TextFile(path=str(tmp_path / "bad.txt")).vocabulary()


ERRORS = {
  "no path": (lambda folder: None, r"--set=train_data.path=FILE"),
  "missing": (lambda folder: folder / "none.txt", r"no text file at .*none.txt"),
  "directory": (lambda folder: folder, r"is a directory"),
  "empty": (lambda folder: folder / "empty.txt", r"empty.txt is empty"),
}


@pytest.mark.parametrize("make_path, message", ERRORS.values(), ids=ERRORS.keys())
def test_a_wrong_path_is_one_line_with_the_cure_before_anything_is_built(
  tmp_path, make_path, message
):
  (tmp_path / "empty.txt").touch()
  path = make_path(tmp_path)
  data = TextFile(path=path and str(path))
  for ask in (data.vocabulary, lambda: data.store(str(tmp_path / "cache"))):
    with pytest.raises(UserError, match=message) as raised:
      ask()
    assert "\n" not in str(raised.value)
  assert not (tmp_path / "cache").exists()


def test_a_file_that_cannot_be_read_is_the_users_error(text_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr("builtins.open", refuse)
  text_scan._scan.cache_clear()
  with pytest.raises(UserError, match="cannot read .*: Permission denied"):
    TextFile(path=text_path).vocabulary()


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"split": "test"}, "no split 'test'; it has 'train' and 'validation'"),
    ({"tokens": "words"}, "'characters' or 'bytes'"),
    ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
    ({"validation_fraction": 0.0, "split": "validation"}, "leaves 0 for the validation split"),
    ({"num_batches": 0}, "num_batches=0 leaves nothing to read"),
    ({"num_batches": 3}, "num_batches=3 limits evaluation data"),
  ],
)
def test_a_wrong_field_is_the_users_error(text_path, tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    TextFile(path=text_path, **changes).open(
      sequence_length=8, batch_size=1, cache_dir=str(tmp_path / "cache"), seed=0
    )
  assert not os.path.exists(tmp_path / "cache")


def test_a_text_of_less_than_one_row_is_refused_for_training_before_it_is_tokenised(tmp_path):
  (tmp_path / "short.txt").write_text("0123456789")
  for tokens, count in (("characters", 9), ("bytes", 11)):
    data = TextFile(path=str(tmp_path / "short.txt"), tokens=tokens)
    with pytest.raises(UserError, match=f"has {count} tokens, and one row takes 65"):
      data.open(sequence_length=64, batch_size=1, cache_dir=str(tmp_path / "cache"), seed=0)
  assert not os.path.exists(tmp_path / "cache")


@pytest.mark.slow
def test_a_text_of_less_than_one_row_can_be_evaluated_on(tmp_path):
  (tmp_path / "short.txt").write_text("0123456789")
  (batch,) = TextFile(path=str(tmp_path / "short.txt")).open(
    sequence_length=64, batch_size=2, cache_dir=str(tmp_path / "cache"), seed=None
  )
  assert batch["decoder_loss_weights"].sum() == 8
