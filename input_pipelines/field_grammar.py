"""The grammar of recipes: which fields of an example become tokens, and which are learned.

A recipe is a list of fields separated by commas, as Large World Model writes them
(https://github.com/LargeWorldModel/LWM, lwm/data.py), with EasyLM's raw forms:

    text             the tokens of example["text"]
    a+b              the tokens of one text: example["a"], the separator, example["b"]
    [question]       tokens of example["question"] with weight 0: no loss on them
    <|bos|> <|eos|>  the vocabulary's id
    <|123|>          the id 123
    {tokens}         ids as base64 of little-endian int32

`[question+context],answer` for {"context": "C", "question": "Q", "answer": "A"}, in letters:

    tokens   <bos> Q _ C A <eos>
    weights    0   0 0 0 1   1

Brackets may enclose any form. Names are taken literally, spaces included; they cannot contain
`,`, `+`, brackets or braces. A recipe is parsed once and then applied to every example.
"""

import base64
import binascii
import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError, shown

_FORM = re.compile(
  r"<\|(?P<special>[^|]*)\|>|\{(?P<raw>[^\[\]{}+]+)\}|(?P<text>[^\[\]{}+]+(?:\+[^\[\]{}+]+)*)"
)
_FORMS = "name, a+b, [x], <|bos|>, <|eos|>, <|ID|>, {name}"
_SHOWN_KEYS = 12  # keys that a message lists
_MAX_DIGITS = 9  # of an id; Python refuses numbers of more than 4,300 digits

Example = Mapping[str, Any]
Tokens = tuple[np.ndarray, np.ndarray]  # int32 [tokens], uint8 [tokens] of 0 and 1


NOT_ENCODABLE = "not encodable"  # the only kind of cause that needs the tokenizer to detect


class BadExample(ValueError):
  """A recipe cannot read an example. `kind` classifies the cause; the message has the field."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipes:
  """How the examples of a corpus become tokens.

  Attributes:
    fields: the recipe of every example.
    fields_from_example: the key of each example's own recipe, used instead of `fields`: a
      string, or a list from which a hash of `seed` and the example's number picks one.
    prepend_text: text put before the text of the first field.
    subfield_separator: text that `+` puts between two fields.
    add_bos: BOS with weight 0 in front, if the vocabulary has one.
    add_eos: EOS with weight 1 at the end, if the vocabulary has one.
  """

  fields: str = "text"
  fields_from_example: str | None = None
  prepend_text: str = ""
  subfield_separator: str = " "
  add_bos: bool = True
  add_eos: bool = True
  seed: int = 0

  def check(self, vocabulary: Vocabulary) -> None:
    """Raises UserError if `fields` is no recipe, has no effect or names unknown ids."""
    if self.fields_from_example is not None:
      if self.fields != Recipes.fields:
        raise UserError(
          f"fields={shown(self.fields)} has no effect, as each example brings its own recipe "
          f"under fields_from_example={shown(self.fields_from_example)}; leave out one"
        )
      return
    try:
      fields = _parse(self.fields)
      for field in fields:
        field.check(vocabulary)
    except BadExample as error:
      raise UserError(f"fields={shown(self.fields)}: {error}") from None
    if all(field.weight == 0 for field in fields) and not self._eos(vocabulary):
      raise UserError(
        f"fields={shown(self.fields)} masks the loss of everything: take the brackets off what "
        "is to be learned"
      )
    if self.prepend_text and not fields[0].names:
      raise UserError(
        f"prepend_text goes before the text of the first field, and {shown(self.fields)} "
        "begins with none; leave it out, or begin with a text"
      )

  def encode(self, example: Any, number: int, vocabulary: Vocabulary) -> Tokens:
    """The ids of an example with BOS and EOS, int32 [tokens], and their loss weights, 0 or 1.

    `number` is the example's place in its file, from 1. Raises BadExample if it does not fit
    its recipe, or has no text or ids at all.
    """
    return self._encode(example, number, vocabulary, vocabulary.encode)

  def check_example(self, example: Any, number: int, vocabulary: Vocabulary) -> None:
    """Raises BadExample as `encode` does, but without running a tokenizer."""
    self._encode(example, number, vocabulary, _as_bytes)

  def _encode(self, example: Any, number: int, vocabulary: Vocabulary, encode: Any) -> Tokens:
    if not isinstance(example, Mapping):
      raise BadExample("wrong type", f"is {_described(example)}, not an object with fields")
    parts, weights = [], []
    has_content = False
    for place, field in enumerate(self._fields(example, number)):
      ids = field.encode(example, self, place == 0, vocabulary, encode)
      has_content |= any(example[name] for name in field.keys)
      parts.append(ids)
      weights.append(field.weight)
    if not has_content:
      raise BadExample("empty", "has no text in any of its fields")
    if self.add_bos and vocabulary.bos_id is not None:
      parts.insert(0, np.array([vocabulary.bos_id], np.int32))
      weights.insert(0, 0)
    if self._eos(vocabulary):
      parts.append(np.array([vocabulary.eos_id], np.int32))
      weights.append(1)
    lengths = [len(part) for part in parts]
    return np.concatenate(parts), np.repeat(np.array(weights, np.uint8), lengths)

  def _eos(self, vocabulary: Vocabulary) -> bool:
    return self.add_eos and vocabulary.eos_id is not None

  def _fields(self, example: Example, number: int) -> "tuple[_Field, ...]":
    """The fields of this example, in order."""
    key = self.fields_from_example
    if key is None:
      return _parse(self.fields)
    recipe = _value(example, key)
    if isinstance(recipe, list) and recipe:
      recipe = recipe[_hash(self.seed, number) % len(recipe)]
    if not isinstance(recipe, str):
      raise BadExample(
        "wrong type",
        f"field {shown(key)} is {_described(recipe)}, not a recipe or a list of them",
      )
    return _parse(recipe)


@dataclasses.dataclass(frozen=True)
class _Field:
  """One field of a recipe: texts to join, or raw ids, or a special."""

  form: str  # as it was written
  weight: int
  names: tuple[str, ...] = ()
  raw: str | None = None
  special: str | None = None

  @property
  def keys(self) -> tuple[str, ...]:
    """The keys that the field reads of an example."""
    return self.names if self.raw is None else (self.raw,)

  def check(self, vocabulary: Vocabulary) -> None:
    """Raises BadExample if the field stands for an id that the vocabulary lacks."""
    if self.special is not None:
      self._special_id(vocabulary)

  def encode(
    self,
    example: Example,
    recipes: Recipes,
    is_first: bool,
    vocabulary: Vocabulary,
    encode: Callable[[str], np.ndarray],
  ) -> np.ndarray:
    """Its ids, int32 [tokens]."""
    if self.special is not None:
      return np.array([self._special_id(vocabulary)], np.int32)
    if self.raw is not None:
      return self._raw_ids(_text(example, self.raw), vocabulary)
    text = recipes.subfield_separator.join([_text(example, name) for name in self.names])
    if is_first:
      text = recipes.prepend_text + text
    try:
      text.encode()  # tokenizers would fail in various ways, or insert U+FFFD
    except UnicodeEncodeError:
      raise BadExample(
        "invalid UTF-8",
        f"field {shown(self.form)} has half of a surrogate pair, which is no text",
      ) from None
    try:
      return encode(text)
    except UserError as error:
      raise BadExample(NOT_ENCODABLE, f"field {shown(self.form)}: {error}") from None

  def _special_id(self, vocabulary: Vocabulary) -> int:
    known = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id}
    special = str(self.special)
    if special in known:
      found = known[special]
      if found is None:
        raise BadExample("unknown id", f"{shown(self.form)}: the tokenizer has no such id")
      return found
    if not (special.isascii() and special.isdigit()):
      raise BadExample(
        "bad recipe", f"{shown(self.form)} is neither <|bos|>, <|eos|> nor <|ID|>"
      )
    digits = special.lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS or int(digits) >= vocabulary.vocab_size:
      raise BadExample(
        "unknown id", f"{shown(self.form)} is outside the vocabulary of {vocabulary.vocab_size}"
      )
    return int(special)

  def _raw_ids(self, text: str, vocabulary: Vocabulary) -> np.ndarray:
    try:
      content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
      raise BadExample("wrong type", f"field {shown(self.raw)} is not base64") from None
    if len(content) % 4:
      raise BadExample(
        "wrong type", f"field {shown(self.raw)} has {len(content)} bytes, not a multiple of 4"
      )
    ids = np.frombuffer(content, "<i4").astype(np.int32)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary.vocab_size:
      raise BadExample(
        "unknown id",
        f"field {shown(self.raw)} has ids from {ids.min()} to {ids.max()}, outside the "
        f"vocabulary of {vocabulary.vocab_size}",
      )
    return ids


@functools.lru_cache(maxsize=4096)  # examples with their own recipes share a few
def _parse(recipe: str) -> tuple[_Field, ...]:
  return tuple(map(_parse_field, recipe.split(",")))


def _parse_field(form: str) -> _Field:
  masked = len(form) > 1 and form.startswith("[") and form.endswith("]")
  match = _FORM.fullmatch(form[1:-1] if masked else form)
  if match is None:
    what = "an empty field" if not form else f"the field {shown(form)}"
    raise BadExample("bad recipe", f"{what} is not one of the forms {_FORMS}")
  text = match["text"]
  names = tuple(text.split("+")) if text is not None else ()
  return _Field(form, int(not masked), names, match["raw"], match["special"])


def _text(example: Example, name: str) -> str:
  value = _value(example, name)
  if not isinstance(value, str):
    raise BadExample("wrong type", f"field {shown(name)} is {_described(value)}, not a string")
  return value


def _value(example: Example, name: str) -> Any:
  try:
    return example[name]
  except KeyError:
    known = ", ".join(map(shown, list(example)[:_SHOWN_KEYS])) or "none"
    raise BadExample(
      "missing field", f"has no field {shown(name)}; its fields: {known}"
    ) from None


def _described(value: Any) -> str:
  """A value's type in JSON's words."""
  if value is None:
    return "null"
  names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
  names |= {str: "a string", dict: "an object"}
  return names.get(type(value), f"a {type(value).__name__}")


def _hash(seed: int, number: int) -> int:
  return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8], "big")


def _as_bytes(text: str) -> np.ndarray:
  return np.frombuffer(text.encode(), np.uint8)
