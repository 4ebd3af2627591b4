"""Whatever a recipe, an example or a line holds: tokens, or one short line that says why."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipelines.field_grammar import BadExample, Recipes
from input_pipelines.jsonl_tokens import _parsed
from input_pipelines.vocabularies import ByteVocabulary
from layers.errors import UserError
from tests.canary import FUZZ

pytestmark = pytest.mark.slow
VOCABULARY = ByteVocabulary()
# Few draws for each recipe: forms, right and wrong, with something long or odd in between.
FORMS = [
  *(
    "text",
    "a+b",
    "[text]",
    "[a+b]",
    "<|bos|>",
    "<|eos|>",
    "<|7|>",
    "[<|7|>]",
    "{raw}",
    "",
    "[",
  ),
  *(
    "]",
    "[[a]]",
    "a+",
    "+",
    "<|-1|>",
    "<|3.5|>",
    "<|",
    "|>",
    "{",
    "{}",
    "{a+b}",
    "<||>",
    "<|pad|>",
  ),
  *(
    "<|" + "9" * 5000 + "|>",
    "<|٣|>",
    "<|1_0|>",
    "<| 7|>",
    "[" * 3000,
    "x" * 3000,
    "\ud800",
    "\0",
  ),
]
NAMES = ["text", "a", "b", "raw", "recipe", "\n", "", "é"]
VALUES = [
  *("x", "", "\ud800", "a\nb", "AAAA", "AAAAAA==", "/" * 8, "?" * 3000, "[a],b", "<|999|>"),
  *(None, True, 3, 1e400, [], ["text"], [None], {}, {"a": 1}, b"bytes", -(10**4400), [["a"]]),
]


def one_line(error):
  assert "\n" not in str(error) and len(str(error)) < 1000, str(error)


CHANGES = {
  "fields_from_example": ["recipe", "none", ""],
  "prepend_text": ["p", "\ud800", "\n"],
  "add_bos": [False],
  "add_eos": [False],
  "seed": [-(2**70), 2**70],
}


@FUZZ
@given(seed=st.integers(0, 2**64))
def test_a_recipe_gives_tokens_or_one_short_line(seed):
  draw = random.Random(seed)  # one draw of hypothesis is quicker than many
  forms = draw.choices(FORMS, k=draw.randrange(5))
  odd = "".join(draw.choices(string.punctuation + "a1\n", k=draw.choice((0, 0, 2, 5))))
  names = draw.sample(sorted(CHANGES), k=draw.randrange(3))
  changes = {name: draw.choice(CHANGES[name]) for name in names}
  recipes = Recipes(fields=",".join([*forms, odd] if odd else forms), **changes)
  keys = draw.sample(NAMES, k=draw.randrange(6))
  example = {key: draw.choice(VALUES) for key in keys} if seed % 9 else draw.choice(VALUES)
  try:
    recipes.check(VOCABULARY)
  except UserError as error:
    one_line(error)
  for read in (recipes.encode, recipes.check_example):
    try:
      read(example, 1, VOCABULARY)
    except BadExample as error:
      one_line(error)


LINE = b'{"text": "a \\u00e9 \\ud83d\\ude42", "n": [1, 2.5e3, null, true], "o": {"k": "v"}}'


ODD = [
  b"[" * 5000,
  b"9" * 5000,
  b'"',
  b"\\u",
  b"\\ud800",
  b"NaN",
  b"\xef\xbb\xbf",
  b"\0",
  b"{}",
]


@FUZZ
@given(seed=st.integers(0, 2**64))
def test_a_line_gives_an_example_or_one_short_line(seed):
  draw = random.Random(seed)
  place, removed = draw.randrange(len(LINE) + 1), draw.randrange(10)
  inserted = draw.choice([*ODD, draw.randbytes(draw.randrange(5))])
  line = LINE[:place] + inserted + LINE[place + removed :]
  try:
    Recipes().encode(_parsed(line), 1, VOCABULARY)
  except BadExample as error:
    one_line(error)
