"""What a tokenizer cannot encode, and lines too long to hold, are bad lines like any other."""

import gzip
import json

import numpy as np
import pytest

from input_pipelines.token_store import store_path
from layers.errors import UserError
from tasks.jsonl import Jsonl
from tests.tasks.example_texts import ALL, GOOD, write

LINES = ["hello", "world hello", "hello hello", "there", "hello", "hello world"]


@pytest.fixture
def tokenizer(tmp_path):
  """A WordLevel tokenizer that knows one word and has no token for the unknown."""
  tokenizers = pytest.importorskip("tokenizers")
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"hello": 0}, unk_token="<unk>"))
  made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  made.save(str(tmp_path / "tokenizer.json"))
  return str(tmp_path / "tokenizer.json")


def save(folder, lines=LINES):
  return write(folder / "a.jsonl", "".join(json.dumps({"text": line}) + "\n" for line in lines))


def test_the_first_one_stops_the_run_with_file_and_line(tmp_path, cache, tokenizer):
  data = Jsonl(files=save(tmp_path), tokenizer=tokenizer, **ALL)
  message = (
    "a.jsonl:2: not encodable: field 'text': the tokenizer .* cannot encode 'world hello'"
  )
  with pytest.raises(UserError, match=message):
    data.store(cache)


def test_those_that_are_tolerated_are_counted_with_all_others(
  tmp_path, cache, tokenizer, capsys
):
  path = write(tmp_path / "a.jsonl", '{"text": 3}\n' + open(save(tmp_path)).read())
  data = Jsonl(files=path, tokenizer=tokenizer, max_bad_fraction=0.6, **ALL)
  store = data.store(cache)
  assert store.num_documents == 3 and store.num_tokens == 4
  err = capsys.readouterr().err
  assert "left out 4 of 7 lines: not encodable 3, wrong type 1; " in err
  with pytest.raises(UserError, match=r"4 of 7 lines are bad, more than max_bad_fraction=0.5 "):
    Jsonl(files=path, tokenizer=tokenizer, max_bad_fraction=0.5, **ALL).store(cache)


def test_a_build_that_breaks_off_among_them_goes_on_at_the_same_document(tmp_path, tokenizer):
  data = Jsonl(files=save(tmp_path), tokenizer=tokenizer, max_bad_fraction=1.0, **ALL)
  whole = [piece.tokens.tolist() for piece in data.tokenise().pieces(0, 0)]
  assert whole == [[0], [], [0, 0], [], [0], []]
  for first in range(len(whole) + 1):
    rest = data.tokenise().pieces(0, first)
    assert [piece.tokens.tolist() for piece in rest] == whole[first:]


def test_a_corpus_may_begin_with_one(tmp_path, cache, tokenizer):
  path = save(tmp_path, ["there", "hello hello"])
  store = Jsonl(files=path, tokenizer=tokenizer, max_bad_fraction=0.5, **ALL).store(cache)
  np.testing.assert_array_equal(store.offsets, [0, 2])


def test_a_line_beyond_the_limit_is_a_bad_one_unless_the_limit_is_raised(tmp_path, cache):
  long = json.dumps({"text": "x" * 100}) + "\n"
  for name, content in (
    ("a.jsonl", (GOOD + long + GOOD).encode()),
    ("a.jsonl.gz", gzip.compress((GOOD + long + GOOD).encode())),
  ):
    path = write(tmp_path / name, content)
    with pytest.raises(
      UserError, match=f"{name}:2: too long: has more than max_line_bytes=50;"
    ):
      Jsonl(files=path, max_line_bytes=50, **ALL).store(cache)
    tolerant = Jsonl(files=path, max_line_bytes=50, max_bad_fraction=0.4, **ALL)
    assert tolerant.store(cache).num_documents == 2
    assert Jsonl(files=path, max_bad_fraction=0.4, **ALL).store(cache).num_documents == 3


def test_rows_of_parquet_have_the_same_limit(tmp_path, cache):
  pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
  rows = pyarrow.Table.from_pylist([{"text": "good"}, {"text": "x" * 100}])
  parquet.write_table(rows, tmp_path / "a.parquet")
  with pytest.raises(UserError, match="a.parquet:2: too long: "):
    Jsonl(files=str(tmp_path / "a.parquet"), max_line_bytes=50, **ALL).store(cache)


def test_what_is_parsed_has_a_store_of_its_own(tmp_path, cache, tokenizer):
  path = save(tmp_path, ["hello"])
  identities = [
    Jsonl(files=path, tokenizer=tokenizer, parse_special_tokens=parse)._full_identity()
    for parse in (False, True)
  ]
  assert len({store_path(cache, "x", identity) for identity in identities}) == 2
  with pytest.raises(UserError, match="parse_special_tokens=True is for a tokenizer"):
    Jsonl(files=path, parse_special_tokens=True).store(cache)
