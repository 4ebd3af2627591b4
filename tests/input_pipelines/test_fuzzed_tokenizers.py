"""Whatever a tokenizer file holds: a vocabulary that encodes, or one short line why not."""

import base64
import copy
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipelines import byte_pair_ranks, tokenizer_files, tokenizer_json
from layers.errors import UserError
from tests.canary import FUZZ

shapes = pytest.importorskip("tests.input_pipelines.tokenizer_shapes")
pytestmark = pytest.mark.slow
TEXT = "the </s> fox\n  é"


def tried(read):
  """Calls `read` and uses the vocabulary that comes of it; only UserError may come out."""
  try:
    vocabulary = read()
    vocabulary.token_bytes()
    vocabulary.fingerprint()
    vocabulary.decode(vocabulary.encode(TEXT))
  except UserError as error:
    assert "\n" not in str(error) and len(str(error)) < 1000, str(error)


def places(value, path=()):
  """The path of each value in a JSON value."""
  yield path
  if isinstance(value, dict | list):
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
      yield from places(child, (*path, key))


def small(shape):
  described = json.loads(shape().to_str())
  model = described["model"]
  if "merges" in model:  # few places for the pieces, as many for all the rest
    model["merges"] = model["merges"][:3]
    kept = [piece for merge in model["merges"] for piece in (*merge, "".join(merge))]
    kept += [token["content"] for token in described["added_tokens"]]
    kept += [piece for piece in model["vocab"] if len(piece) == 1][:20]
    model["vocab"] = {piece: i for i, piece in enumerate(dict.fromkeys(kept))}
    for token in described["added_tokens"]:
      token["id"] = model["vocab"][token["content"]]
  elif isinstance(model["vocab"], dict):
    model["vocab"] = dict(list(model["vocab"].items())[:12])
  else:
    model["vocab"] = model["vocab"][:12]
  return described


FILES = [small(shape) for shape in (shapes.gemma, shapes.split_byte_level, shapes.llama_2)]
FILES += [small(shape) for shape in (shapes.word_piece, shapes.word_level, shapes.unigram)]
FILES += [small(shapes.end_of_word)]
PLACES = [(n, path) for n, file in enumerate(FILES) for path in places(file) if path]
VALUES = [
  *(
    None,
    True,
    False,
    0,
    1,
    -1,
    3.5,
    70_000,
    2**31,
    2**40,
    10**30,
    "",
    "a",
    "</s>",
    "▁",
    "\0",
    "é",
  ),
  *([], [1], ["a"], ["a", "b", "c"], {}, {"type": "Nope"}, {"type": "ByteLevel"}, {"a": 0}),
  *({"Regex": "("}, {"Regex": "(a+)+$"}, {"String": ""}, {"type": "Sequence", "decoders": []}),
  *("BPE", "Unigram", "WordPiece", "WordLevel", "x" * 3000, [[]], [["a", "b"]], "never", "NFC"),
]


@FUZZ
@given(place=st.sampled_from(PLACES), value=st.sampled_from(VALUES), parse=st.booleans())
def test_a_tokenizer_json_is_read_or_told(place, value, parse):
  number, (*path, last) = place
  described = copy.deepcopy(FILES[number])
  holder = described
  for key in path:
    holder = holder[key]
  holder[last] = value
  content = json.dumps(described).encode()
  tried(lambda: tokenizer_json.read("t.json", content, "0", parse))


RANKS = [f"{base64.b64encode(bytes([i])).decode()} {i}" for i in range(256)] + ["dGg= 256"]


@FUZZ
@given(
  number=st.integers(0, 256),
  line=st.one_of(
    st.sampled_from(
      [
        "",
        " ",
        "x",
        "dGg=",
        "dGg= x",
        "dGg= -1",
        "dGg= 257",
        " 256",
        "= 256",
        "dGg= 2 5",
        "AA== 0",
      ]
      + [
        "dGg= " + "9" * 5000,
        "dGg= 256.0",
        "dGg= ٣",
        "dGh= 256",
        "dGg 256",
        "dGg=\t256",
        "YQ==",
      ]
    ),
    st.text("AQg= 0129\t\x00é", max_size=12),
  ),
  pattern=st.sampled_from([None, "gpt2", "llama3", "nope", r"\p{", r"\s+|\S", r"(\s+)+$"]),
)
def test_a_file_of_ranks_is_read_or_told(number, line, pattern):
  content = "\n".join([*RANKS[:number], line, *RANKS[number + 1 :]]).encode()
  tried(lambda: byte_pair_ranks.read("t.tiktoken", content, "0", False, pattern))


def sentencepiece_model():
  sentencepiece = pytest.importorskip("sentencepiece")
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(shapes.CORPUS[:6]),
    model_writer=model,
    vocab_size=320,
    model_type="bpe",
    byte_fallback=True,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return model.getvalue()


MODEL = sentencepiece_model()


@FUZZ
@given(
  place=st.integers(0, len(MODEL) - 1),
  removed=st.integers(0, 4),
  inserted=st.binary(max_size=4),
  parse=st.booleans(),
)
def test_a_sentencepiece_model_is_read_or_told(place, removed, inserted, parse):
  content = MODEL[:place] + inserted + MODEL[place + removed :]
  tried(lambda: tokenizer_files._sentencepiece("t.model", content, "0", parse))
