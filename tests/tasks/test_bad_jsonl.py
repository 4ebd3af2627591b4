"""A bad line or file is named with its cause: it stops the run, or is tolerated and counted."""

import base64
import gzip
import os

import pytest

from layers.errors import UserError
from tasks.jsonl import Jsonl
from tests.tasks.example_texts import (
  ALL,
  GOOD,
  documents,
  framed,
  write,
)

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


def linked(folder):
  (folder / "link.jsonl").symlink_to(good(folder))
  return folder


def hard_link(folder):
  (folder / "hard.jsonl").hardlink_to(folder / "good.jsonl")
  return str(folder / "hard.jsonl")


def pipe(folder):
  os.mkfifo(folder / "pipe.jsonl")
  return str(folder / "pipe.jsonl")


def linked_folder(folder):
  (folder.parent / "other").symlink_to(folder)
  return folder.parent / "other"


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
  "a link to another": (
    lambda folder: [f"{linked(folder)}/*.jsonl"], {},
    "link.jsonl is named twice, by .*; name each file once: it is a link to the same file as",
  ),
  "a pipe": (pipe, {}, "pipe.jsonl is a pipe or a device"),
  "a hard link": (
    lambda folder: [good(folder), hard_link(folder)], {}, "hard.jsonl is named twice, by ",
  ),
  "a folder that is a link": (
    lambda folder: [good(folder), f"{linked_folder(folder)}/good.jsonl"], {},
    "good.jsonl is named twice, by ",
  ),
  "a URL of the same file": (
    lambda folder: [good(folder), f"file://{folder}/good.jsonl"], {},
    "file://.*good.jsonl is named twice, by ",
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
