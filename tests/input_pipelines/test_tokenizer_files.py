"""A tokenizer file gives its own library's ids, and pieces whose bytes are the text's."""

import importlib.util
import io
import json

import pytest

from input_pipelines.tokenizer_files import load_tokenizer
from layers.errors import UserError

TEXT = "Naïve café: the quick brown fox, 東京 🙂\n\tjumps  over 12345 dogs' tails."
WORDS = ["the quick brown fox jumps over the lazy dog", "naïve café", TEXT] * 20


@pytest.fixture
def sentencepiece_model(tmp_path):
  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(WORDS),
    model_writer=model,
    vocab_size=340,
    model_type="bpe",
    byte_fallback=True,
    hard_vocab_limit=False,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
  )
  (tmp_path / "t.model").write_bytes(model.getvalue())
  return str(tmp_path / "t.model")


def test_a_sentencepiece_model_has_its_ids_and_bytes(sentencepiece_model):
  import sentencepiece

  vocabulary = load_tokenizer(sentencepiece_model)
  reference = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_model)
  ids = vocabulary.encode(TEXT)
  assert ids.tolist() == reference.encode(TEXT) and ids.dtype == "int32"
  assert (vocabulary.bos_id, vocabulary.eos_id) == (1, 2)
  assert vocabulary.vocab_size == reference.vocab_size()
  assert vocabulary.decode([1, *ids, 2]) == " " + TEXT  # it begins each text with a space
  assert load_tokenizer(sentencepiece_model) is vocabulary


def save_hugging_face(path, decoder):
  """A trained tokenizer.json, of GPT-2's kind or of LLaMA's."""
  tokenizers = pytest.importorskip("tokenizers")
  from tokenizers import decoders, models, pre_tokenizers, trainers

  specials = ["<unk>", "<s>", "</s>"]
  if decoder == "byte level":
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
  else:
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    specials += [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = []
  trainer = trainers.BpeTrainer(
    vocab_size=700, special_tokens=specials, initial_alphabet=alphabet
  )
  tokenizer.train_from_iterator(WORDS[:2] * 20, trainer)
  tokenizer.enable_truncation(5)
  described = json.loads(tokenizer.to_str())
  described["added_tokens"] = described["added_tokens"][:3]
  path.write_text(json.dumps(described))
  return str(path)


@pytest.mark.parametrize("decoder", ["byte level", "byte fallback"])
def test_a_tokenizer_json_has_its_ids_and_bytes(tmp_path, decoder):
  path = save_hugging_face(tmp_path / "tokenizer.json", decoder)
  import tokenizers

  vocabulary = load_tokenizer(path)
  reference = tokenizers.Tokenizer.from_file(path)
  reference.no_truncation()
  ids = vocabulary.encode(TEXT)
  assert ids.tolist() == reference.encode(TEXT, add_special_tokens=False).ids
  assert vocabulary.decode([1, *ids, 2]) == TEXT
  assert vocabulary.token_bytes()[ids].sum() == len(TEXT.encode())
  assert (vocabulary.bos_id, vocabulary.eos_id) == (1, 2)


def test_bos_and_eos_are_those_of_the_config_beside_a_tokenizer_json(tmp_path):
  path = save_hugging_face(tmp_path / "tokenizer.json", "byte level")
  config = {"bos_token": None, "eos_token": {"content": "<unk>"}}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  vocabulary = load_tokenizer(path)
  assert (vocabulary.bos_id, vocabulary.eos_id) == (None, 0)


def test_other_files_are_other_vocabularies(tmp_path, sentencepiece_model):
  before = load_tokenizer(sentencepiece_model)
  assert load_tokenizer(sentencepiece_model).fingerprint() == before.fingerprint()
  content = bytearray((tmp_path / "t.model").read_bytes())
  # An unknown field of the protocol buffer: the same pieces, another file.
  (tmp_path / "u.model").write_bytes(content + b"\xf8\x3f\x01")
  after = load_tokenizer(str(tmp_path / "u.model"))
  assert after.pieces() == before.pieces() and after.fingerprint() != before.fingerprint()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  import sys

  for package, name in (("tokenizers", "a.json"), ("tiktoken", "a.tiktoken")):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{package} is needed to read .*; pip install"):
      load_tokenizer(str(tmp_path / name))


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("none.model", None, "cannot read the tokenizer .*none.model: No such file"),
    ("a.model", b"\xff\xff", "a.model is no SentencePiece model"),
    ("a.txt", b"x", r"a.txt is of no known kind; give a .model \(SentencePiece\)"),
    ("a.json", b"{}", "a.json is no tokenizer.json: "),
    ("a.tiktoken", b"x y\n", "a.tiktoken is no file of BPE ranks"),
    ("b.tiktoken", b"YQ== 0\n", "b.tiktoken is no file of BPE ranks: bytes or ranks are"),
  ],
)
def test_what_is_no_tokenizer_is_the_users_error(tmp_path, name, content, message):
  package = {".json": "tokenizers", ".tiktoken": "tiktoken"}.get(name[name.index(".") :])
  if package and importlib.util.find_spec(package) is None:
    message = f"{package} is needed"
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message) as raised:
    load_tokenizer(str(tmp_path / name))
  assert "\n" not in str(raised.value)
