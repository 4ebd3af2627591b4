"""The tokenizer of an exported folder gives, in transformers, the ids and texts of the run."""

import json

import fiddle as fdl
import numpy as np
import pytest

from input_pipelines.tokenizer_files import load_tokenizer
from input_pipelines.vocabularies import ByteVocabulary, CharacterVocabulary
from runners.configs.files import load
from runners.generation.prompt_tokens import prompt_tokens
from runners.interchange.hugging_face_tokenizer import tokenizer_files
from runners.training import train
from tasks.jsonl import Jsonl
from tasks.text_file import TextFile
from tests.runners.their_folder import runner
from tests.runners.toy_run import LETTERS, ToyText, toy_config

transformers = pytest.importorskip(
  "transformers", reason="transformers is not installed: pip install 'strata[hf]'"
)

SAID = [
  "",
  " ",
  "\n",
  "\r\n\t",
  "def main():\n  return 1\n",
  "naïve café",
  "日本語 テキスト",
  "🙂👩‍👩‍👧",
  "e\u0301",
]
SAID += [
  "</s>",
  "<s>",
  "<unk>a</s>",
  "<0x41>",
  "Ġ Ċ",
  "▁x",
  "\x00\x01\x7f",
  "\ufeffa",
  "a" * 3000,
  "  a  b ",
]
SAID += ["don't, (can't)!", "\u2028\u00a0\u200b", "\U0010ffff", "1234567890" * 20]


def texts(characters=None):
  """Several hundred: those above, and random ones of printable and of any characters."""
  generator = np.random.default_rng(0)
  valid = lambda code: chr(code if not 0xD800 <= code < 0xE000 else 0x41)
  found = [] if characters else list(SAID)
  for length in range(300):
    any_code = generator.integers(0, 0x110000, length % 40)
    near = generator.integers(0, 0x180, length % 40)
    codes = any_code if length % 2 else near
    found.append("".join(map(valid, codes.tolist())))
    if characters:
      found[-1] = "".join(generator.choice(list(characters), length))
  return found


def write(folder, files):
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return transformers.AutoTokenizer.from_pretrained(folder)


def test_bytes_are_the_same_ids_and_text(tmp_path):
  vocabulary, tokenizer = ByteVocabulary(), write(tmp_path, tokenizer_files(Jsonl(), "runs/x"))
  assert len(tokenizer) == vocabulary.vocab_size
  assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
  for text in texts():
    ids = vocabulary.encode(text).tolist()
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, text
    assert tokenizer(text)["input_ids"] == [0, *ids]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([0, *ids, 1], skip_special_tokens=True) == text


def test_any_bytes_are_the_same_text(tmp_path):
  vocabulary, tokenizer = ByteVocabulary(), write(tmp_path, tokenizer_files(Jsonl(), "runs/x"))
  generator = np.random.default_rng(0)
  for length in range(300):
    ids = generator.integers(0, vocabulary.vocab_size, length)
    assert tokenizer.decode(ids, skip_special_tokens=True) == vocabulary.decode(ids)


@pytest.mark.parametrize("characters", [LETTERS, "\t\n\r !\"#'<>/saeéΩ日🙂\u0301", " \n"])
def test_characters_are_the_same_ids_and_text(characters, tmp_path):
  vocabulary = CharacterVocabulary("".join(sorted(characters)))
  data = ToyText(letters=vocabulary.characters)
  tokenizer = write(tmp_path, tokenizer_files(data, "runs/x"))
  assert len(tokenizer) == vocabulary.vocab_size
  for text in texts(characters):
    ids = vocabulary.encode(text).tolist()
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.decode(ids) == text
  with pytest.raises(Exception, match="UNK"):
    tokenizer("a character that is not there: ∞")


def test_a_file_that_the_run_tokenised_with_goes_along(tmp_path):
  own = tmp_path / "own.json"
  own.write_bytes(tokenizer_files(Jsonl(), "runs/x")["tokenizer.json"])
  files = tokenizer_files(Jsonl(tokenizer=str(own)), "runs/x")
  assert files["tokenizer.json"] == own.read_bytes()
  assert str(own) in files["README.md"].decode()


def test_an_exported_run_is_read_with_its_tokenizer_by_transformers_and_here(tmp_path):
  pytest.importorskip("safetensors", reason="safetensors is not installed")
  run, to, again = (tmp_path / name for name in ("run", "to", "again"))
  assert train(toy_config(num_steps=1), "toy.Run", str(run)) == 0
  assert runner("export", f"--workdir={run}", f"--to={to}") == 0
  names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
  assert {file.name for file in to.iterdir()} == names | {"README.md"}
  assert "is the place of a character among the 19" in (to / "README.md").read_text()
  tokenizer = transformers.AutoTokenizer.from_pretrained(to)
  assert tokenizer("abba")["input_ids"] == [0, 1, 1, 0]
  assert runner("import", f"--from={to}", f"--workdir={again}") == 0
  data = fdl.build(load(again).config.train_data)
  assert prompt_tokens(data, again, 19).encode("abba").tolist() == [0, 1, 1, 0]


def test_a_prompt_has_the_same_ids_after_an_export_and_an_import(tmp_path):
  files = tokenizer_files(Jsonl(), "runs/x")
  theirs = tmp_path / "hugging_face"
  theirs.mkdir()
  write(theirs, files)
  (theirs / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 1}))
  before, after = (
    prompt_tokens(Jsonl(), tmp_path / "no", 259),
    prompt_tokens(Jsonl(), tmp_path, 259),
  )
  for text in SAID:
    assert after.encode(text).tolist() == before.encode(text).tolist(), text
  assert (after.first_ids, after.end_ids) == (before.first_ids, before.end_ids) == ((0,), (1,))
  pieces = load_tokenizer(str(theirs / "tokenizer.json")).pieces()
  assert pieces == ByteVocabulary().pieces()


def test_what_is_there_is_not_written_over_and_a_vocabulary_that_is_gone_is_said(
  tmp_path, capsys
):
  pytest.importorskip("safetensors", reason="safetensors is not installed")
  text, run = tmp_path / "text.txt", tmp_path / "run"
  text.write_text("abc " * 200)
  config = toy_config(num_steps=1)
  config.train_data = fdl.Config(TextFile, path=str(text))
  assert train(config, "toy.Run", str(run)) == 0
  (tmp_path / "to").mkdir()
  (tmp_path / "to" / "README.md").write_text("mine")
  code, err = runner("export", f"--workdir={run}", f"--to={tmp_path / 'to'}", capsys=capsys)
  assert code == 2 and "holds README.md already" in err
  assert [file.name for file in (tmp_path / "to").iterdir()] == ["README.md"]
  text.unlink()
  assert runner("export", f"--workdir={run}", f"--to={tmp_path / 'other'}") == 0
  assert not (tmp_path / "other" / "tokenizer.json").exists()
  assert "is not known here" in (tmp_path / "other" / "README.md").read_text()
