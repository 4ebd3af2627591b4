"""Rows of Hugging Face data sets become the tokens of their recipe, streamed or not."""

import json
import os
import sys

import numpy as np
import pytest

from input_pipelines import hugging_face_rows
from input_pipelines.vocabularies import ByteVocabulary
from layers.errors import UserError
from tasks.hugging_face import HuggingFace
from tasks.jsonl import Jsonl

BYTES = ByteVocabulary()


def rows_of(count):
  return [{"question": f"why {i}?", "answer": f"for {i} é🙂"} for i in range(count)]


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def texts(store):
  parts = np.split(store.tokens, store.offsets[1:-1])
  return [BYTES.decode(part) for part in parts]


@pytest.fixture
def cache(tmp_path, monkeypatch):
  datasets = pytest.importorskip("datasets")
  monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
  monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(hugging_face_rows, "PART_ROWS", 7)
  return str(tmp_path / "cache")


def saved(tmp_path, rows):
  import datasets

  datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
  return str(tmp_path / "saved")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("num_examples", [None, 9, 1000])
def test_rows_of_files_give_the_tokens_and_weights_of_json_lines(
  tmp_path, cache, streaming, num_examples
):
  path = write(tmp_path / "a.jsonl", rows_of(40))
  recipe = {"fields": "[question],answer", "validation_fraction": 0.0}
  want = Jsonl(files=path, **recipe).store(cache)
  data = HuggingFace(
    path="json", data_files=path, streaming=streaming, num_examples=num_examples, **recipe
  )
  store = data.store(cache)
  count = min(40, num_examples or 40)
  assert texts(store) == texts(want)[:count]
  np.testing.assert_array_equal(store.weights, want.weights[: store.num_tokens])


def test_a_saved_data_set_is_read_from_its_folder(tmp_path, cache):
  path = saved(tmp_path, rows_of(20))
  store = HuggingFace(path=path, fields="answer").store(cache)
  assert texts(store) == [row["answer"] for row in rows_of(20)]


def test_a_document_starts_with_bos_where_the_examples_do():
  assert HuggingFace(path="c4").document_start() == BYTES.bos_id
  assert HuggingFace(path="c4", add_bos=False).document_start() is None


def test_a_build_goes_on_at_any_row(tmp_path, cache):
  path = write(tmp_path / "a.jsonl", rows_of(20))
  for streaming in (False, True):
    data = HuggingFace(path="json", data_files=path, fields="answer", streaming=streaming)
    tokenised = data.tokenise()
    assert tokenised.num_shards == (1 if streaming else 3)
    for shard in range(tokenised.num_shards):
      whole = [piece.tokens.tolist() for piece in tokenised.pieces(shard, 0)]
      for first in (1, 5, len(whole)):
        assert [p.tokens.tolist() for p in tokenised.pieces(shard, first)] == whole[first:]


def test_rows_are_held_out_by_their_hash_where_the_data_set_has_no_split_for_it(
  tmp_path, cache
):
  path = write(tmp_path / "a.jsonl", rows_of(100))
  parts = [
    texts(
      HuggingFace(
        path="json", data_files=path, fields="answer", split=split, validation_fraction=0.2
      ).store(cache)
    )
    for split in ("train", "validation")
  ]
  assert sorted(parts[0] + parts[1]) == sorted(row["answer"] for row in rows_of(100))
  assert 8 < len(parts[1]) < 35


def test_rows_with_objects_in_them_are_in_one_split_at_every_reading(tmp_path, cache):
  image = pytest.importorskip("PIL.Image")
  import datasets

  rows = [{"text": f"{i}", "image": image.new("L", (2, 2))} for i in range(60)]
  datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
  parts = [
    texts(
      HuggingFace(path=str(tmp_path / "saved"), split=split, validation_fraction=0.5).store(
        cache
      )
    )
    for split in ("train", "validation")
  ]
  assert sorted(parts[0] + parts[1]) == sorted(row["text"] for row in rows)


def test_other_rows_and_other_recipes_are_another_identity(tmp_path, cache):
  path = write(tmp_path / "a.jsonl", rows_of(5))
  data = HuggingFace(path="json", data_files=path, fields="answer")
  before = data.identity()
  assert data.identity() == before
  others = [
    HuggingFace(path="json", data_files=path, fields="answer", **change).identity()
    for change in ({"num_examples": 2}, {"validation_fraction": 0.5}, {"seed": 1})
  ]
  write(tmp_path / "a.jsonl", rows_of(6))
  others.append(data.identity())
  assert texts(data.store(cache)) == [row["answer"] for row in rows_of(6)]
  others.append(HuggingFace(path=saved(tmp_path, rows_of(5)), fields="answer").identity())
  assert len({json.dumps(identity) for identity in [before, *others]}) == 6


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_is_named_or_tolerated_and_counted(tmp_path, cache, capsys, streaming):
  path = write(tmp_path / "a.jsonl", [*rows_of(3), {"question": "?", "answer": None}])
  data = {"path": "json", "data_files": path, "streaming": streaming, "fields": "answer"}
  with pytest.raises(UserError, match=r"json\[train\]:4: wrong type: field 'answer' is null"):
    HuggingFace(**data).store(cache)
  assert HuggingFace(**data, max_bad_fraction=0.5).store(cache).num_documents == 3
  assert "left out 1 of 4 lines: wrong type 1; json[train]:4" in capsys.readouterr().err


def test_what_cannot_be_loaded_is_one_line_with_the_cause(tmp_path, cache, monkeypatch):
  path = write(tmp_path / "a.jsonl", rows_of(3))
  (tmp_path / "link.jsonl").symlink_to(path)
  (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
  folder = saved(tmp_path, rows_of(3))
  json_file = {"path": "json", "data_files": path}
  bad = {"path": "json", "data_files": str(tmp_path / "bad.jsonl")}
  wrong = [
    ({}, "which data set"),
    (
      {"path": "json", "data_files": [path, str(tmp_path / "link.jsonl")]},
      "link.jsonl is named twice, by .*: it is a link to the same file as ",
    ),
    ({"path": "json", "data_files": str(tmp_path / "no")}, "data set json: Unable to find"),
    (bad, "cannot read the data set json: .*JSON parse error"),
    ({**bad, "streaming": True}, "cannot read the data set json: JSON parse error"),
    ({"path": "nobody/nothing-of-the-kind"}, "cannot read the data set nobody/nothing-of"),
    ({**json_file, "split": "test"}, "json has no split 'test'; it has 'train'"),
    ({**json_file, "fields": "text"}, "missing field: has no field 'text'"),
    ({**json_file, "num_examples": 0}, "num_examples=0 leaves nothing"),
    ({**json_file, "validation_fraction": 2.0}, "validation_fraction=2.0 is not"),
    ({**json_file, "validation_fraction": 0.5, "split": "x"}, "no split 'x' with validation"),
    ({"path": folder, "streaming": True}, "saved data set, of which streaming, data_files"),
  ]
  for fields, message in wrong:
    with pytest.raises(UserError, match=message) as raised:
      HuggingFace(**fields).store(cache)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(UserError, match=r"datasets is needed .*; pip install 'strata\[hf\]'"):
    HuggingFace(path="json", data_files="x").store(str(tmp_path))
  assert not os.listdir(tmp_path)
