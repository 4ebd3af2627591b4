"""Lines become exactly the tokens of their recipe, or the run stops and names file and line."""

import base64
import gzip
import importlib.util
import json
import os

import numpy as np
import pytest

from input_pipelines import example_files, jsonl_tokens
from input_pipelines.batches import TARGETS, WEIGHTS
from input_pipelines.vocabularies import ByteVocabulary
from layers.errors import UserError
from tasks.jsonl import Jsonl
from tasks.python_stdlib import PythonStdlib

BYTES = ByteVocabulary()
ALL = {"validation_fraction": 0.0}


def lines_of(examples):
  return "".join(json.dumps(example) + "\n" for example in examples)


def texts(count, start=0):
  return [{"text": f"text number {i} " + "é🙂x" * (i % 7)} for i in range(start, start + count)]


def framed(*parts):
  return [BYTES.bos_id, *(i for text in parts for i in BYTES.encode(text).tolist()), 1]


def documents(store):
  return [part.tolist() for part in np.split(store.tokens, store.offsets[1:-1])]


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
  return str(tmp_path / "cache")


@pytest.fixture
def small_parts(monkeypatch):
  """Parts of 100 bytes, read 70 at a time."""
  monkeypatch.setattr(example_files, "PART_BYTES", 100)
  monkeypatch.setattr(example_files, "_CHUNK_BYTES", 70)
  example_files._scan.cache_clear()
  yield
  example_files._scan.cache_clear()


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return str(path)


def write_gz(path, content):
  path.write_bytes(gzip.compress(content.encode()[:40]) + gzip.compress(content.encode()[40:]))
  return str(path)


def write_parquet(path, content):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  rows = [json.loads(line) for line in content.splitlines()]
  parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
  return str(path)


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
  expected = content.rstrip("\n").encode().split(b"\n")
  assert [(number, line.strip()) for number, line in numbered] == list(enumerate(expected, 1))


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


GOOD = '{"text": "good"}\n'
BAD_LINES = {
  "broken JSON": (b'{"text": "x"', r"broken JSON: Expecting ',' delimiter at character 13"),
  "no JSON": (b"text", "broken JSON: Expecting value at character 1"),
  "two objects": (b'{"text": "x"} {"text": "y"}', "broken JSON: Extra data at character 15"),
  "a control character": (b'{"text": "\x01"}', "broken JSON: Invalid control character"),
  "nested too deep": (b"[" * 100_000, "broken JSON: "),
  "a huge number": (b'{"text": ' + b"9" * 5000 + b"}", "broken JSON: "),
  "invalid UTF-8": (b'{"text": "\xe9"}', r"invalid UTF-8: byte 10 \(0xe9\)"),
  "half a surrogate pair": (b'{"text": "\\ud800"}', "invalid UTF-8: field 'text'"),
  "missing field": (b'{"texts": "x"}', "missing field: has no field 'text'.*'texts'"),
  "a number": (b'{"text": 1}', "wrong type: field 'text' is a number"),
  "a list": (b'{"text": ["x"]}', "wrong type: field 'text' is a list"),
  "null": (b'{"text": null}', "wrong type: field 'text' is null"),
  "no object": (b'["text"]', "wrong type: is a list, not an object"),
  "empty text": (b'{"text": ""}', "empty: has no text"),
  "blank line": (b" ", "empty: a blank line among others"),
}


@pytest.mark.parametrize("line, message", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_the_first_bad_line_stops_the_run_with_file_line_and_cause(
  tmp_path, cache, line, message
):
  path = write(tmp_path / "a.jsonl", GOOD.encode() * 2 + line + b"\n" + GOOD.encode())
  with pytest.raises(UserError, match=rf"a.jsonl:3: {message}") as raised:
    Jsonl(files=path, **ALL).store(cache)
  assert "\n" not in str(raised.value) and "max_bad_fraction" in str(raised.value)


def test_bad_lines_that_are_tolerated_are_counted_by_cause_and_left_out(
  tmp_path, cache, capsys
):
  bad = b"\n".join(line for line, _ in BAD_LINES.values())
  path = write(tmp_path / "a.jsonl", GOOD.encode() * 85 + bad + b"\n" + GOOD.encode())
  for split in ("train", "validation"):
    data = Jsonl(files=path, max_bad_fraction=0.2, split=split, validation_fraction=0.0)
    if split == "train":
      assert data.store(cache).num_documents == 86
  err = capsys.readouterr().err
  assert "left out 15 of 101 lines: broken JSON 6, wrong type 4, " in err
  assert f"{path}:86, {path}:87" in err and err.count("left out") == 1


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers", "sentencepiece"])
def test_what_no_tokenizer_takes_is_left_out_whatever_the_tokenizer_makes_of_it(
  tmp_path, cache, kind
):
  pytest.importorskip(kind)
  path = write(tmp_path / "a.jsonl", GOOD + '{"text": "a\\ud800b"}\n' + GOOD)
  data = Jsonl(
    files=path, tokenizer=saved_tokenizer(tmp_path, kind), max_bad_fraction=0.5, **ALL
  )
  tokenised = data.tokenise()
  whole = [piece.tokens.tolist() for piece in tokenised.pieces(0, 0)]
  assert len(whole) == 2
  for first in (1, 2):  # where a build goes on
    assert [p.tokens.tolist() for p in tokenised.pieces(0, first)] == whole[first:]


def saved_tokenizer(folder, kind):
  """The path of a small tokenizer of the library `kind`."""
  if kind == "tiktoken":
    ranks = (f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256))
    return write(folder / "t.tiktoken", "".join(ranks))
  if kind == "tokenizers":
    from tokenizers import Tokenizer, models

    vocab = {piece: i for i, piece in enumerate("adgo�")}
    model = models.BPE(vocab=vocab, merges=[], unk_token="�")
    Tokenizer(model).save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")
  import sentencepiece

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["good", "a", "b"]),
    model_prefix=str(folder / "t"),
    vocab_size=300,
    byte_fallback=True,
    hard_vocab_limit=False,
  )
  return str(folder / "t.model")


def test_more_bad_lines_than_are_tolerated_stop_the_run(tmp_path, cache):
  path = write(tmp_path / "a.jsonl", (GOOD * 3 + "{\n") * 10)
  message = r"10 of 40 lines are bad, more than max_bad_fraction=0.2 .*first is .*a.jsonl:4: "
  with pytest.raises(UserError, match=message):
    Jsonl(files=path, max_bad_fraction=0.2, **ALL).store(cache)
  assert Jsonl(files=path, max_bad_fraction=0.25, **ALL).store(cache).num_documents == 30


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path, cache):
  path = write(
    tmp_path / "a.jsonl", b"\xef\xbb\xbf" + GOOD.encode().replace(b"\n", b"\r\n") * 2
  )
  assert documents(Jsonl(files=path, **ALL).store(cache)) == [framed("good")] * 2


def empty_file(folder):
  return write(folder / "empty.jsonl", "\n\n")


def cut_gzip(folder):
  return write(folder / "cut.jsonl.gz", gzip.compress(GOOD.encode() * 1000)[:-20])


def no_gzip(folder):
  return write(folder / "no.jsonl.gz", GOOD)


def no_parquet(folder):
  return write(folder / "no.parquet", GOOD * 10)


def good(folder):
  return write(folder / "good.jsonl", GOOD)


FILES = {
  "no match": (lambda folder: f"{folder}/*.jsonl", {}, "no file matches .*jsonl"),
  "missing": (lambda folder: f"{folder}/none.jsonl", {}, "no file at .*none.jsonl"),
  "a folder": (str, {}, r"is a directory; name the files in it"),
  "nothing": (lambda folder: [], {}, "no files given"),
  "an empty name": (lambda folder: "", {}, "an empty file name"),
  "twice": (lambda folder: [good(folder), f"{folder}/*"], {}, "good.jsonl is named twice"),
  "twice, otherwise": (
    lambda folder: [good(folder), f"{folder}/../files/good.jsonl"], {},
    "good.jsonl is named twice",
  ),
  "an unknown protocol": (lambda folder: "nope://x/y", {}, "cannot read nope://x/y: "),
  "no lines": (empty_file, {}, "of 0 examples none falls to the train split"),
  "a gzip cut off": (cut_gzip, {}, "cannot read .*cut.jsonl.gz: Compressed file ended"),
  "no gzip": (no_gzip, {}, "cannot read .*no.jsonl.gz: Not a gzipped file"),
  "no Parquet": (no_parquet, {}, "cannot read .*no.parquet: "),
  "no validation": (good, {"split": "validation", **ALL}, "of 1 examples none falls to"),
  "split": (good, {"split": "test"}, "no split 'test'"),
  "a fraction": (good, {"validation_fraction": 2.0}, "validation_fraction=2.0 is not a frac"),
  "bad fraction": (good, {"max_bad_fraction": -1.0}, "max_bad_fraction=-1.0 is not a frac"),
  "a recipe": (good, {"fields": "[text"}, r"fields='\[text': the field '\[text' is not one"),
  "nothing learned": (good, {"fields": "[text]", "add_eos": False}, "masks the loss"),
  "no files": (lambda folder: None, {"fields": "a"}, "fields='a' is for files, and there are"),
}  # fmt: skip


@pytest.mark.parametrize("make, changes, message", FILES.values(), ids=FILES.keys())
def test_what_cannot_be_read_is_one_line_with_the_cause(
  tmp_path, cache, make, changes, message
):
  (tmp_path / "files").mkdir()
  data = Jsonl(files=make(tmp_path / "files"), **changes)
  with pytest.raises(UserError, match=message) as raised:
    data.store(cache)
  assert "\n" not in str(raised.value)


def test_a_file_that_may_not_be_read_is_the_users_error(tmp_path, cache, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")

  path = good(tmp_path)
  monkeypatch.setattr("builtins.open", refuse)
  with pytest.raises(UserError, match="cannot read .*good.jsonl: Permission denied"):
    Jsonl(files=path).store(cache)


def test_a_file_that_changes_while_it_is_tokenised_is_the_users_error(tmp_path):
  path = good(tmp_path)
  tokenised = Jsonl(files=path, **ALL).tokenise()
  write(tmp_path / "good.jsonl", GOOD * 2)
  with pytest.raises(UserError, match="changed while it was read; start again"):
    list(tokenised.pieces(0, 0))


def test_lines_that_come_while_a_file_is_tokenised_are_not_taken_for_its_own(tmp_path):
  path = write(tmp_path / "a.jsonl", GOOD * 100_000)
  pieces = Jsonl(files=path, **ALL).tokenise().pieces(0, 0)
  next(iter(pieces))
  with open(path, "a") as file:
    file.write(GOOD)
  with pytest.raises(UserError, match="changed while it was read; start again"):
    list(pieces)


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
