"""Lines become exactly the tokens of their recipe, or the run stops and names file and line."""

import base64
import importlib.util
import json
import os

import numpy as np
import pytest

from input_pipelines import example_files, jsonl_tokens
from input_pipelines.batches import TARGETS, WEIGHTS
from input_pipelines.line_splitting import BadLines
from layers.errors import UserError
from tasks.jsonl import Jsonl
from tasks.python_stdlib import PythonStdlib
from tests.tasks.example_texts import (
  ALL,
  BYTES,
  GOOD,
  documents,
  framed,
  lines_of,
  texts,
  write,
  write_gz,
  write_parquet,
)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
  "name, save", [("a.jsonl", write), ("a.jsonl.gz", write_gz), ("a.parquet", write_parquet)]
)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, cache, name, save):
  path = save(tmp_path / name, lines_of(texts(40)))
  store = Jsonl(files=path, **ALL).store(cache)
  assert documents(store) == [framed(example["text"]) for example in texts(40)]
  assert store.weights is None


def test_zstandard_files_are_read_or_the_package_that_is_missing_is_named(tmp_path, cache):
  content = lines_of(texts(40)).encode()
  if importlib.util.find_spec("zstandard") is None:
    path = write(tmp_path / "a.jsonl.zst", content)
    with pytest.raises(UserError, match="zstandard is needed to read .*; pip install zst"):
      Jsonl(files=path, **ALL).store(cache)
    return
  import zstandard

  frames = [zstandard.ZstdCompressor().compress(part) for part in (content[:40], content[40:])]
  path = write(tmp_path / "a.jsonl.zst", b"".join(frames))
  assert Jsonl(files=path, **ALL).store(cache).num_documents == 40


def test_a_zstandard_file_that_was_cut_off_is_not_taken_for_a_whole_one(tmp_path, cache):
  zstandard = pytest.importorskip("zstandard")
  flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
  compressor = zstandard.ZstdCompressor().compressobj()
  whole = zstandard.ZstdCompressor().compress(GOOD.encode() * 3)
  # At the end of a line, where nothing else shows it.
  begun = compressor.compress(GOOD.encode() * 100) + compressor.flush(flush)
  for content in (begun, whole + begun, whole[:-1], whole[:3]):
    path = write(tmp_path / "a.jsonl.zst", content)
    with pytest.raises(UserError, match="cannot read .*a.jsonl.zst: Compressed file ended"):
      Jsonl(files=path, max_bad_fraction=1.0, **ALL).store(cache)


def test_files_at_a_url_are_read(cache):
  fsspec = pytest.importorskip("fsspec")
  for name, start in (("a", 0), ("b", 5)):
    with fsspec.open(f"memory://jsonl-test/{name}.jsonl", "wb") as file:
      file.write(lines_of(texts(5, start)).encode())
  store = Jsonl(files="memory://jsonl-test/*.jsonl", **ALL).store(cache)
  assert documents(store) == [framed(example["text"]) for example in texts(10)]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("ending", ["", "\n", "\n\n \n\t\n" + "\n" * 300])
def test_blank_lines_at_the_end_of_a_file_are_none(tmp_path, cache, ending):
  content = lines_of(texts(9)).rstrip("\n") + ending
  for name, save in (("a.jsonl", write), ("b.jsonl.gz", write_gz)):
    store = Jsonl(files=save(tmp_path / name, content), **ALL).store(cache)
    assert store.num_documents == 9


@pytest.mark.usefixtures("small_parts")
def test_lines_are_numbered_as_an_editor_does_in_every_part(tmp_path):
  content = lines_of(texts(30)) + "\n\n" + lines_of(texts(30)) + "\n\n\n"
  (file,) = example_files.scan_files([write(tmp_path / "a.jsonl", content)])
  assert len(file.parts) > 20
  numbered = [pair for part in range(len(file.parts)) for pair in file.read(part)]
  expected = list(enumerate(content.rstrip("\n").encode().split(b"\n"), 1))
  blank = BadLines("empty", "a blank line among others", 2)
  assert numbered == [*expected[:30], (31, blank), *expected[32:]]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("max_bad_fraction", [0.0, 0.5])
def test_a_build_may_break_off_and_go_on_at_any_document(tmp_path, max_bad_fraction):
  bad = "\n{\n" if max_bad_fraction else ""
  path = write(tmp_path / "a.jsonl", lines_of(texts(9)) + bad + lines_of(texts(9, 9)))
  tokenised = Jsonl(files=path, max_bad_fraction=max_bad_fraction, **ALL).tokenise()
  assert tokenised.num_shards > 3
  for shard in range(tokenised.num_shards):
    whole = [piece.tokens.tolist() for piece in tokenised.pieces(shard, 0)]
    for first in range(len(whole) + 1):
      assert [p.tokens.tolist() for p in tokenised.pieces(shard, first)] == whole[first:]


def test_masked_fields_have_weight_0_in_the_rows(tmp_path, cache):
  examples = [{"question": f"why {i}?", "answer": f"for {i}"} for i in range(50)]
  path = write(tmp_path / "a.jsonl", lines_of(examples))
  data = Jsonl(files=path, fields="[question],answer", **ALL)
  (batch,) = data.open(sequence_length=2048, batch_size=1, cache_dir=cache, seed=None)
  learned = batch[TARGETS][batch[WEIGHTS] > 0]
  assert BYTES.decode(learned) == "".join(example["answer"] for example in examples)
  assert (learned == BYTES.eos_id).sum() == 50


def test_a_recipe_in_each_line_and_raw_ids_are_stored(tmp_path, cache):
  ids = base64.b64encode(np.array([200, 201], "<i4").tobytes()).decode()
  examples = [
    {"recipe": "[a],b", "a": "x", "b": "y"},
    {"recipe": ["{ids},b"], "ids": ids, "b": "z"},
  ]
  path = write(tmp_path / "a.jsonl", lines_of(examples))
  store = Jsonl(files=path, fields_from_example="recipe", **ALL).store(cache)
  assert documents(store) == [framed("x", "y"), [0, 200, 201, *BYTES.encode("z"), 1]]
  assert store.weights.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_every_line_is_in_one_split_and_twins_are_in_the_same(tmp_path, cache):
  examples = texts(400)
  once = write(tmp_path / "a.jsonl", lines_of(examples))
  twice = write(tmp_path / "b.jsonl", lines_of(reversed(examples)) + lines_of(examples))

  def parts(files):
    return [
      documents(Jsonl(files=files, split=split, validation_fraction=0.2).store(cache))
      for split in ("train", "validation")
    ]

  train, validation = parts(once)
  everything = [framed(example["text"]) for example in examples]
  assert sorted(train + validation) == sorted(everything)
  assert 50 < len(validation) < 110
  assert sorted(parts(twice)[1]) == sorted(validation * 2)


def test_all_lines_are_validation_with_a_fraction_of_1(tmp_path, cache):
  path = write(tmp_path / "a.jsonl", lines_of(texts(5)))
  data = Jsonl(files=path, split="validation", validation_fraction=1.0)
  assert data.store(cache).num_documents == 5


def test_the_identity_is_of_names_contents_and_recipe(tmp_path):
  path = write(tmp_path / "a.jsonl", lines_of(texts(5)))
  data = Jsonl(files=path)
  before = data.identity()
  changes = [
    {"fields": "[text]"},
    {"prepend_text": "x"},
    {"subfield_separator": ""},
    {"add_bos": False},
    {"add_eos": False},
    {"fields_from_example": "r"},
    {"seed": 1},
    {"validation_fraction": 0.5},
    {"max_bad_fraction": 0.5},
  ]
  others = [Jsonl(files=path, **change).identity() for change in changes]
  write(tmp_path / "a.jsonl", lines_of(texts(6)))
  others.append(data.identity())
  os.rename(path, tmp_path / "b.jsonl")
  others.append(Jsonl(files=str(tmp_path / "b.jsonl")).identity())
  assert len({json.dumps(identity) for identity in [before, *others]}) == len(others) + 1
  (tmp_path / "moved").mkdir()
  write(tmp_path / "moved" / "a.jsonl", lines_of(texts(5)))
  assert Jsonl(files=str(tmp_path / "moved" / "a.jsonl")).identity() == before


def test_without_files_it_is_the_embedded_sources():
  for split in ("train", "validation"):
    data, embedded = Jsonl(split=split), PythonStdlib(split=split)
    assert data.name() == embedded.name() and data.identity() == embedded.identity()
    assert data.vocabulary().facts() == embedded.vocabulary().facts()


def test_a_glob_character_in_the_name_of_a_file_is_a_character(tmp_path, cache):
  path = write(tmp_path / "a[1].jsonl", GOOD)
  assert Jsonl(files=path, **ALL).store(cache).num_documents == 1


def test_lines_are_checked_once_for_both_splits(tmp_path, cache):
  path = write(tmp_path / "a.jsonl", lines_of(texts(100)))
  jsonl_tokens.count_examples.cache_clear()
  for split in ("train", "validation"):
    Jsonl(files=path, split=split, validation_fraction=0.3).store(cache)
  assert jsonl_tokens.count_examples.cache_info().misses == 1


def test_a_tokenizer_file_gives_the_tokens_and_is_part_of_the_identity(tmp_path, cache):
  import sentencepiece

  path = write(tmp_path / "a.jsonl", lines_of(texts(40)))
  stores = []
  for size in (300, 310):
    model = str(tmp_path / f"{size}")
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(example["text"] for example in texts(40)),
      model_prefix=model,
      vocab_size=size,
      byte_fallback=True,
      hard_vocab_limit=False,
    )
    data = Jsonl(files=path, tokenizer=f"{model}.model", **ALL)
    stores.append(data.store(cache))
    encode = data.vocabulary().encode
    assert documents(stores[-1])[3] == [1, *encode(texts(4)[3]["text"]).tolist(), 2]
  assert stores[0].path != stores[1].path
