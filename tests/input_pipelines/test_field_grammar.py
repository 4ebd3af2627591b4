"""Every form of a recipe gives the tokens and weights that were worked out by hand."""

import base64

import numpy as np
import pytest

from input_pipelines.field_grammar import BadExample, Recipes
from input_pipelines.vocabularies import ByteVocabulary, CharacterVocabulary
from layers.errors import UserError

BYTES = ByteVocabulary()
LETTERS = CharacterVocabulary(" abcdefghij")  # ids 0 .. 10, no BOS and no EOS
EXAMPLE = {
  "a": "ab",
  "b": "c",
  "empty": "",
  "raw": base64.b64encode(np.array([7, 8, 258], "<i4").tobytes()).decode(),
  "my field": "d",
  "vision+x": "unreachable",
}
BOS, EOS = 0, 1
A, B, C, D, SPACE = (ord(letter) + 3 for letter in "abcd ")

# recipe, changes, tokens, weights: as ByteVocabulary has them, byte + 3.
FORMS = {
  "a field": ("a", {}, [BOS, A, B, EOS], [0, 1, 1, 1]),
  "two fields": ("a,b", {}, [BOS, A, B, C, EOS], [0, 1, 1, 1, 1]),
  "two texts": ("a+b", {}, [BOS, A, B, SPACE, C, EOS], [0, 1, 1, 1, 1, 1]),
  "separator": ("a+b", {"subfield_separator": "d"}, [BOS, A, B, D, C, EOS], [0] + [1] * 5),
  "no separator": ("a+b", {"subfield_separator": ""}, [BOS, A, B, C, EOS], [0] + [1] * 4),
  "an empty text is joined": ("empty+b", {}, [BOS, SPACE, C, EOS], [0, 1, 1, 1]),
  "an empty field": ("empty,b", {}, [BOS, C, EOS], [0, 1, 1]),
  "masked": ("[a],b", {}, [BOS, A, B, C, EOS], [0, 0, 0, 1, 1]),
  "masked texts": ("[a+b],b", {}, [BOS, A, B, SPACE, C, C, EOS], [0, 0, 0, 0, 0, 1, 1]),
  "masked last": ("a,[b]", {}, [BOS, A, B, C, EOS], [0, 1, 1, 0, 1]),
  "bos and eos": ("a,<|eos|>,<|bos|>,b", {}, [BOS, A, B, 1, 0, C, EOS], [0] + [1] * 6),
  "masked eos": ("a,[<|eos|>],b", {}, [BOS, A, B, 1, C, EOS], [0, 1, 1, 0, 1, 1]),
  "masked bos": ("[<|bos|>],a", {"add_bos": False}, [0, A, B, EOS], [0, 1, 1, 1]),
  "an id": ("a,<|258|>,b", {}, [BOS, A, B, 258, C, EOS], [0] + [1] * 5),
  "a masked id": ("[<|9|>],a", {}, [BOS, 9, A, B, EOS], [0, 0, 1, 1, 1]),
  "raw ids": ("{raw}", {}, [BOS, 7, 8, 258, EOS], [0, 1, 1, 1, 1]),
  "masked raw ids": ("[{raw}],b", {}, [BOS, 7, 8, 258, C, EOS], [0, 0, 0, 0, 1, 1]),
  "a space in a name": ("my field", {}, [BOS, D, EOS], [0, 1, 1]),
  "prepend": ("a,b", {"prepend_text": "d"}, [BOS, D, A, B, C, EOS], [0] + [1] * 5),
  "prepend, masked": ("[a],b", {"prepend_text": "d"}, [BOS, D, A, B, C, EOS], [0] * 4 + [1, 1]),
  "prepend to a join": ("a+b", {"prepend_text": "d"}, [0, D, A, B, SPACE, C, 1], [0] + [1] * 6),
  "unframed": ("[a],b", {"add_bos": False, "add_eos": False}, [A, B, C], [0, 0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("fields, changes, tokens, weights", FORMS.values(), ids=FORMS.keys())
def test_a_form_gives_its_tokens_and_weights(fields, changes, tokens, weights):
  fixed = Recipes(fields=fields, **changes)
  fixed.check(BYTES)
  brought = Recipes(fields_from_example="recipe", **changes)
  for recipes in (fixed, brought):
    got, got_weights = recipes.encode({**EXAMPLE, "recipe": fields}, 1, BYTES)
    assert got.tolist() == tokens and got_weights.tolist() == weights
    assert got.dtype == np.int32 and got_weights.dtype == np.uint8
    recipes.check_example({**EXAMPLE, "recipe": fields}, 1, BYTES)


def test_a_vocabulary_without_bos_and_eos_frames_nothing():
  tokens, weights = Recipes(fields="[a],b").encode(EXAMPLE, 1, LETTERS)
  assert tokens.tolist() == [1, 2, 3] and weights.tolist() == [0, 0, 1]


def test_one_of_several_recipes_is_picked_by_seed_and_number_and_always_the_same():
  example = {**EXAMPLE, "recipe": ["a", "b", "a,b"]}

  def picked(seed):
    recipes = Recipes(fields_from_example="recipe", seed=seed)
    return [len(recipes.encode(example, number, BYTES)[0]) - 3 for number in range(1, 3001)]

  assert picked(0) == picked(0) != picked(1)
  assert all(900 < picked(0).count(length) < 1100 for length in (0, 1, 2))
  # sha256("0:<number>"), the first eight bytes modulo 3, is 1, 1, 2, 1, 1 for 1 .. 5.
  assert picked(0)[:5] == [0, 0, 2, 0, 0]


BAD = {
  "missing": ({"b": "x"}, "a", "missing field", r"has no field 'a'; its fields: 'b'"),
  "missing in a join": ({"a": "x"}, "[a+b]", "missing field", "has no field 'b'"),
  "missing raw": ({"a": "x"}, "{b}", "missing field", "has no field 'b'"),
  "no fields": ({}, "a", "missing field", "has no field 'a'; its fields: none"),
  "number": ({"a": 3}, "a", "wrong type", "field 'a' is a number, not a string"),
  "truth": ({"a": True}, "a", "wrong type", "field 'a' is true or false"),
  "list": ({"a": ["x"]}, "a", "wrong type", "field 'a' is a list"),
  "object": ({"a": {}}, "a", "wrong type", "field 'a' is an object"),
  "null": ({"a": None}, "a", "wrong type", "field 'a' is null"),
  "half a pair": ({"a": "\ud800"}, "a", "invalid UTF-8", "field 'a' has half of a surrogate"),
  "not base64": ({"a": "?"}, "{a}", "wrong type", "field 'a' is not base64"),
  "not int32": ({"a": "AAA="}, "{a}", "wrong type", "field 'a' has 2 bytes"),
  "ids": ({"a": "////fw=="}, "{a}", "unknown id", "field 'a' has ids from 2147483647"),
  "empty": ({"a": "", "b": ""}, "a,b,<|eos|>", "empty", "no text in any"),
  "empty join": ({"a": "", "b": ""}, "a+b", "empty", "no text in any"),
  "a list of values": ([1], "a", "wrong type", "is a list, not an object"),
  "nothing": (None, "a", "wrong type", "is null, not an object"),
}


@pytest.mark.parametrize("example, fields, kind, message", BAD.values(), ids=BAD.keys())
def test_an_example_that_does_not_fit_is_told_with_its_field(example, fields, kind, message):
  recipes = Recipes(fields=fields)
  for read in (recipes.encode, recipes.check_example):
    with pytest.raises(BadExample, match=message) as raised:
      read(example, 1, BYTES)
    assert raised.value.kind == kind


@pytest.mark.parametrize(
  "recipe, message",
  [
    (None, "field 'recipe' is null, not a recipe or a list"),
    ([], "field 'recipe' is a list, not a recipe"),
    ([3], "field 'recipe' is a number, not a recipe"),
    ("a,", "an empty field is not one of the forms"),
  ],
)
def test_a_recipe_that_an_example_brings_may_be_bad_too(recipe, message):
  with pytest.raises(BadExample, match=message):
    Recipes(fields_from_example="recipe").encode({"a": "x", "recipe": recipe}, 1, BYTES)


@pytest.mark.parametrize(
  "fields, changes, message",
  [
    ("", {}, "an empty field is not one of the forms name"),
    ("a,,b", {}, "an empty field"),
    ("a+", {}, r"the field 'a\+' is not one of the forms"),
    ("[a", {}, r"the field '\[a' is not"),
    ("[a]+b", {}, "is not one of the forms"),
    ("[[a]]", {}, "is not one of the forms"),
    ("{a", {}, "is not one of the forms"),
    ("{a}+b", {}, "is not one of the forms"),
    ("<|pad|>,a", {}, r"'<\|pad\|>' is neither <\|bos\|>, <\|eos\|> nor <\|ID\|>"),
    ("<|-1|>,a", {}, "is neither"),
    ("<|259|>,a", {}, "outside the vocabulary of 259"),
    (f"<|{'9' * 5000}|>,a", {}, "outside the vocabulary of 259"),
    (f"a,{'[' * 100_000}", {}, "is not one of the forms"),
    ("[a],[b]", {"add_eos": False}, "masks the loss of everything"),
    ("<|bos|>,a", {"prepend_text": "x"}, "prepend_text goes before the text"),
    ("[a],b", {"fields_from_example": "r"}, r"fields='\[a\],b' has no effect, as each"),
  ],
)
def test_a_wrong_recipe_is_the_users_error_before_anything_is_read(fields, changes, message):
  with pytest.raises(UserError, match=message) as raised:
    Recipes(fields=fields, **changes).check(BYTES)
  assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_leading_zeros_of_an_id_do_not_count():
  Recipes(fields="<|0000000000258|>,a").check(BYTES)


def test_a_special_that_the_tokenizer_lacks_is_the_users_error():
  with pytest.raises(UserError, match=r"'<\|eos\|>': the tokenizer has no such id"):
    Recipes(fields="a,<|eos|>").check(LETTERS)
