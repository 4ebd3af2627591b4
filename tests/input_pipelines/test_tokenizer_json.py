"""A tokenizer.json has its library's ids and text, and counts the bytes of the text or none."""

import json
import unicodedata

import numpy as np
import pytest

from input_pipelines.tokenizer_files import load_tokenizer
from input_pipelines.tokenizer_json import ids_in_front
from layers.errors import UserError

pytest.importorskip("tokenizers")
shapes = pytest.importorskip("tests.input_pipelines.tokenizer_shapes")

import tokenizers  # noqa: E402
from tokenizers import Regex, models, pre_tokenizers, processors  # noqa: E402


@pytest.mark.parametrize("shape", shapes.ALL, ids=lambda shape: shape.__name__)
def test_ids_and_text_are_those_of_the_library(tmp_path, shape):
  path, reference = shapes.saved(shape, tmp_path)
  vocabulary = load_tokenizer(path)
  reference.encode_special_tokens = True
  added = reference.get_added_tokens_decoder().items()
  special = {i for i, token in added if token.special and "unk" not in token.content.lower()}
  for text in shapes.texts():
    want = reference.encode(text, add_special_tokens=False).ids
    got = vocabulary.encode(text).tolist()
    # The models of these find `</s>` in a text all the same.
    if shape not in (shapes.unigram, shapes.word_level) or not special & set(want):
      assert got == want, text
    assert vocabulary.decode(got) == reference.decode(got), text
    assert not special & set(got), text


@pytest.mark.parametrize("shape", shapes.LOSSLESS, ids=lambda shape: shape.__name__)
def test_bytes_of_tokens_sum_to_those_of_the_text(tmp_path, shape):
  vocabulary = load_tokenizer(shapes.saved(shape, tmp_path)[0])
  table = vocabulary.token_bytes()
  for text in shapes.texts():
    ids = vocabulary.encode(text)
    if "▁" in text and shape is not shapes.byte_level:  # which stands for a space there
      continue
    assert table[ids].sum() == len(text.encode()), text
    assert vocabulary.decode(ids) == text


def test_a_space_that_a_tokenizer_puts_in_front_is_one_byte_more(tmp_path):
  vocabulary = load_tokenizer(shapes.saved(shapes.llama_2, tmp_path)[0])
  for text in ("hello", " hello", "a\n    b"):
    ids = vocabulary.encode(text)
    assert vocabulary.token_bytes()[ids].sum() == len(text) + 1
    assert vocabulary.decode(ids) == text


@pytest.mark.parametrize("shape", shapes.WITHOUT_BYTES, ids=lambda shape: shape.__name__)
def test_bytes_that_tokens_do_not_tell_are_not_reported_which_is_said(tmp_path, capsys, shape):
  vocabulary = load_tokenizer(shapes.saved(shape, tmp_path)[0])
  assert vocabulary.token_bytes() is None is vocabulary.token_bytes()
  assert capsys.readouterr().err.count("bits per byte are not reported") == 1
  assert vocabulary.decode(vocabulary.encode("the quick fox")) == "the quick fox"


def test_where_a_normalizer_changes_text_that_is_said_once(tmp_path, capsys):
  vocabulary = load_tokenizer(shapes.saved(shapes.split_byte_level, tmp_path)[0])
  composed = "é" * 5
  for text in (composed, unicodedata.normalize("NFD", composed), composed):
    assert vocabulary.token_bytes()[vocabulary.encode(text)].sum() == len(composed.encode())
  err = capsys.readouterr().err
  assert err.count("changes text: one of 15 bytes became tokens for 10") == 1


def test_generated_text_keeps_the_space_in_front_of_it(tmp_path):
  vocabulary = load_tokenizer(shapes.saved(shapes.llama_2, tmp_path)[0])
  brown = vocabulary.encode("brown")  # with a mark for the space
  assert vocabulary.decode(brown) == "brown"
  assert vocabulary.continuation(vocabulary.encode("the"), brown) == " brown"


def test_special_tokens_in_a_text_are_text_unless_they_are_to_be_parsed(tmp_path):
  for shape in (shapes.byte_level, shapes.llama_2, shapes.unigram, shapes.gemma):
    path, reference = shapes.saved(shape, tmp_path)
    vocabulary = load_tokenizer(path)
    text = "the</s> quick <s>"
    ids = vocabulary.encode(text).tolist()
    assert vocabulary.decode(ids) == text and not {1, 2} & set(ids)
    parsed = load_tokenizer(path, parse_special_tokens=True)
    assert parsed.encode(text).tolist() == reference.encode(text, add_special_tokens=False).ids
    assert {1, 2} <= set(parsed.encode(text).tolist())
    assert parsed.fingerprint() != vocabulary.fingerprint()


def test_bos_and_eos_that_are_not_marked_as_special_are_text_all_the_same(tmp_path):
  tokenizer = shapes.byte_level()
  tokenizer.add_tokens(["<end>", "<tool>"])
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
  vocabulary = load_tokenizer(str(tmp_path / "tokenizer.json"))
  ids = vocabulary.encode("a<end><tool>").tolist()
  assert vocabulary.eos_id not in ids and tokenizer.token_to_id("<tool>") in ids
  assert vocabulary.decode(ids) == "a<end><tool>"


def test_added_tokens_keep_their_ids_where_special_ones_are_text(tmp_path):
  tokenizer = shapes.unigram()
  tokenizer.add_tokens(["<one>", "<two>"])
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  vocabulary = load_tokenizer(str(tmp_path / "tokenizer.json"))
  ids = vocabulary.encode("</s><two><one>").tolist()
  assert ids[-2:] == [tokenizer.token_to_id(text) for text in ("<two>", "<one>")]


def test_text_that_the_library_would_drop_is_the_users_error(tmp_path):
  tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  vocabulary = load_tokenizer(str(tmp_path / "tokenizer.json"))
  assert vocabulary.encode("abab").tolist() == [2, 2]
  with pytest.raises(UserError, match="cannot encode 'abxab': it has no token for 'x'"):
    vocabulary.encode("abxab")


def test_a_word_without_a_token_is_the_users_error_where_none_is_for_the_unknown(tmp_path):
  model = models.WordLevel({"hello": 0}, unk_token="<unk>")
  tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(UserError, match="cannot encode 'world': WordLevel error: Missing"):
    load_tokenizer(str(tmp_path / "tokenizer.json")).encode("world")


def test_a_panic_in_the_library_is_the_users_error(tmp_path):
  tokenizer = tokenizers.Tokenizer(models.BPE({"h": 0, "x": 1}, []))
  tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(h+)+$"), "isolated")
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(
    UserError, match="cannot encode .*: .*retry-limit-in-match over"
  ) as raised:
    load_tokenizer(str(tmp_path / "tokenizer.json")).encode("h" * 40 + "x")
  assert len(str(raised.value)) < 600


def test_dropout_of_a_file_gives_no_other_ids_at_each_reading(tmp_path):
  tokenizer = shapes.byte_level()
  want = tokenizer.encode(shapes.CORPUS[0]).ids
  tokenizer.model.dropout = 0.5
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  vocabulary = load_tokenizer(str(tmp_path / "tokenizer.json"))
  assert vocabulary.encode(shapes.CORPUS[0]).tolist() == want


def test_what_comes_in_front_of_a_text_is_found_in_any_alphabet(tmp_path):
  vocab = {"<s>": 0, "</s>": 1, "A": 2, "C": 3, "G": 4, "T": 5}
  for model in (models.WordLevel(vocab, unk_token="<unk>"), models.BPE(vocab, [])):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
      single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.enable_padding(direction="left", length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert ids_in_front(str(tmp_path / "tokenizer.json")) == (0,)


@pytest.mark.parametrize(
  "largest, message", [(200_000_000, "the id 200,000,000"), (65_530, "")]
)
def test_ids_far_beyond_the_vocabulary_are_refused(tmp_path, largest, message):
  model = models.WordLevel({"hello": 0, "x": largest, "<unk>": 2}, unk_token="<unk>")
  tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
  if message:
    with pytest.raises(UserError, match=f"{message}: more than 65,536 ids without a token"):
      load_tokenizer(str(tmp_path / "tokenizer.json"))
    return
  vocabulary = load_tokenizer(str(tmp_path / "tokenizer.json"))
  assert vocabulary.vocab_size == largest + 1
  np.testing.assert_array_equal(vocabulary.encode("x"), [largest])


@pytest.mark.parametrize(
  "content, message",
  [
    ("[]", "is a list, not a JSON object"),
    ("{", "is not JSON"),
    ('{"bos_token": ["<s>"]}', "bos_token is .*, and has to be a text"),
    ('{"bos_token": 5}', "bos_token is 5, and has to be a text"),
    ('{"eos_token": {}}', "eos_token has no 'content'"),
    ("[" * 100_000, "is nested too deep"),
  ],
)
def test_a_config_of_wrong_types_is_the_users_error(tmp_path, content, message):
  path, _ = shapes.saved(shapes.word_level, tmp_path)
  (tmp_path / "tokenizer_config.json").write_text(content)
  with pytest.raises(UserError, match=message) as raised:
    load_tokenizer(path)
  assert "\n" not in str(raised.value)
