"""`runner data` shows what a recipe makes of a line, and says which line of a file is bad."""

import base64
import gzip
import json

import pytest

from experiments.command_line import main
from input_pipelines import example_files
from input_pipelines.vocabularies import ByteVocabulary
from tests.input_pipelines.test_field_grammar import EXAMPLE, FORMS

BYTES = ByteVocabulary()


@pytest.fixture
def data(tmp_path, monkeypatch, capsys):
  """Calls `runner data` in an empty folder: (exit code, stdout, lines of stderr)."""
  monkeypatch.chdir(tmp_path)
  example_files._scan.cache_clear()

  def call(**fields):
    values = {"files": "a.jsonl", "validation_fraction": 0.0, "pack": False, **fields}
    settings = [f"--set=train_data.{name}={value}" for name, value in values.items()]
    common = ["--exp=lwm.TextLlamaDebug", "--set=sequence_length=16", "--set=batch_size=1"]
    code = main(
      ["runner", "data", *common, *settings, "--num_rows=1", f"--cache_dir={tmp_path}/cache"]
    )
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()

  return call


@pytest.mark.parametrize("fields, changes, tokens, weights", FORMS.values(), ids=FORMS.keys())
def test_a_row_shows_the_tokens_and_weights_of_its_recipe(
  data, tmp_path, fields, changes, tokens, weights
):
  (tmp_path / "a.jsonl").write_text(json.dumps(EXAMPLE) + "\n")
  code, out, err = data(fields=fields, **{key: repr(value) for key, value in changes.items()})
  assert code == 0, err
  row = next(line for line in out.splitlines() if line.startswith("  segment 1"))
  # The last token is a target alone, and the first an input alone.
  shown = f"positions 0-{len(tokens) - 2}  weight {sum(weights[1:])}  "
  assert row.split("segment 1  ")[1] == shown + repr(BYTES.decode(tokens[:-1]))


GOOD = b'{"a": "good", "b": "too"}\n'
IDS = base64.b64encode(b"\x00\x00\x00\x7f").decode()
CURE = "; mend or remove the line, or tolerate a part of such lines with max_bad_fraction=0.01"
# The third line of a.jsonl, the recipe, and the message but for the place and the cure.
LINES = {
  "broken JSON": (b'{"a": "x"', "a", "broken JSON: Expecting ',' delimiter at character 10"),
  "no JSON": (b"a line of text", "a", "broken JSON: Expecting value at character 1"),
  "two objects": (b'{"a": "x"} {"a": "y"}', "a", "broken JSON: Extra data at character 12"),
  "control character": (
    b'{"a": "\x01"}', "a", "broken JSON: Invalid control character at character 8"),
  "invalid UTF-8": (b'{"a": "\xe9"}', "a", "invalid UTF-8: byte 7 (0xe9)"),
  "half a surrogate pair": (
    b'{"a": "\\ud800"}', "a",
    "invalid UTF-8: field 'a' has half of a surrogate pair, which is no text"),
  "blank line": (b"  ", "a", "empty: a blank line among others"),
  "empty text": (b'{"a": ""}', "a", "empty: has no text in any of its fields"),
  "missing field": (
    b'{"A": "x"}', "a", "missing field: has no field 'a'; its fields: 'A'"),
  "missing in a join": (
    b'{"a": "x"}', "[a+b]", "missing field: has no field 'b'; its fields: 'a'"),
  "a number": (b'{"a": 1}', "a", "wrong type: field 'a' is a number, not a string"),
  "true": (b'{"a": true}', "a", "wrong type: field 'a' is true or false, not a string"),
  "a list": (b'{"a": ["x"]}', "a", "wrong type: field 'a' is a list, not a string"),
  "an object": (b'{"a": {}}', "a", "wrong type: field 'a' is an object, not a string"),
  "null": (b'{"a": null}', "a", "wrong type: field 'a' is null, not a string"),
  "no object": (b'["x"]', "a", "wrong type: is a list, not an object with fields"),
  "not base64": (b'{"a": "?"}', "{a}", "wrong type: field 'a' is not base64"),
  "half an id": (
    b'{"a": "AAA="}', "{a}", "wrong type: field 'a' has 2 bytes, not a multiple of 4"),
  "an unknown id": (
    f'{{"a": "{IDS}"}}'.encode(), "{a}",
    "unknown id: field 'a' has ids from 2130706432 to 2130706432, outside the vocabulary of "
    "259"),
}  # fmt: skip
BROUGHT = {
  "no recipe": (b'{"a": "x"}', "missing field: has no field 'r'; its fields: 'a'"),
  "a recipe that is none": (
    b'{"a": "x", "r": 3}',
    "wrong type: field 'r' is a number, not a recipe or a list of them",
  ),
  "a wrong recipe": (
    b'{"a": "x", "r": "a,"}',
    "bad recipe: an empty field is not one of the forms name, a+b, [x], <|bos|>, <|eos|>, "
    "<|ID|>, {name}",
  ),
}


def check_bad_line(data, tmp_path, good, line, message, **fields):
  (tmp_path / "a.jsonl").write_bytes(good * 2 + line + b"\n" + good)
  code, out, err = data(**fields)
  assert code == 2 and out == "" and err[0].startswith("building token store ")
  assert err[1:] == [f"runner: error: a.jsonl:3: {message}{CURE}"]
  code, out, err = data(**fields, max_bad_fraction=0.25)
  assert code == 0 and "documents:      3\n" in out
  assert f"left out 1 of 4 lines: {message.partition(':')[0]} 1; a.jsonl:3" in err


@pytest.mark.parametrize("line, fields, message", LINES.values(), ids=LINES.keys())
def test_a_bad_line_stops_it_or_is_counted(data, tmp_path, line, fields, message):
  good = GOOD.replace(b'"good"', b'"AwAAAA=="') if "{" in fields else GOOD
  check_bad_line(data, tmp_path, good, line, message, fields=fields)


@pytest.mark.parametrize("line, message", BROUGHT.values(), ids=BROUGHT.keys())
def test_a_bad_recipe_in_a_line_stops_it_or_is_counted(data, tmp_path, line, message):
  good = b'{"a": "good", "r": "a"}\n'
  check_bad_line(data, tmp_path, good, line, message, fields_from_example="r")


# The name of a file, its content, and the message.
FILES = {
  "missing": ("b.jsonl", GOOD, "no file at a.jsonl (looked from "),
  "a gzip cut off": (
    "a.jsonl.gz", gzip.compress(GOOD * 1000)[:-20],
    "cannot read a.jsonl.gz: Compressed file ended before the end-of-stream marker"),
  "no gzip": ("a.jsonl.gz", GOOD, "cannot read a.jsonl.gz: Not a gzipped file"),
  "no lines": ("a.jsonl", b"\n", "of 0 examples none falls to the train split"),
}  # fmt: skip


@pytest.mark.parametrize("name, content, message", FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_read_is_one_line(data, tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  code, out, err = data(files="a.jsonl.gz" if name.endswith("gz") else "a.jsonl", fields="a")
  assert code == 2 and out == ""
  assert err[-1].startswith(f"runner: error: {message}")
  assert sum(text.startswith("runner: error") for text in err) == 1
