"""What data made of examples with fields have in common: recipe, tokenizer, tolerance."""

import dataclasses

from input_pipelines.field_grammar import Recipes
from input_pipelines.text_data import TextData
from input_pipelines.tokenizer_files import load_tokenizer
from input_pipelines.vocabularies import ByteVocabulary, Vocabulary
from layers.errors import UserError
from layers.ranges import Fraction, Seed

# Counts the ways in which examples have been turned into tokens: part of a store's identity.
PREPROCESSING = 1
_BYTES = ByteVocabulary()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleText(TextData):
  """Text of examples that have fields, by the grammar of input_pipelines/field_grammar.py.

  Attributes:
    fields: the recipe, such as '[question],answer'.
    fields_from_example: the field in which each example brings its own recipe, or several.
    prepend_text: goes before the text of the first field.
    subfield_separator: what `a+b` puts between two texts.
    add_bos: BOS in front of each example, where the vocabulary has one.
    add_eos: EOS at its end, learned, where the vocabulary has one.
    tokenizer: a SentencePiece .model, a tokenizer.json or BPE ranks (.tiktoken); None: bytes.
    tokenizer_pattern: how BPE ranks split text into words, where their number does not say it:
      'gpt2', 'cl100k_base', 'llama3', 'o200k_base' or a regular expression.
    parse_special_tokens: text that is written like a special token, such as '</s>', becomes
      that token. False: it is text, as all the rest of a document.
    max_bad_fraction: of the examples may be unreadable and are left out; 0: the first stops.
    seed: picks among the recipes that an example brings.
  """

  fields: str = "text"
  fields_from_example: str | None = None
  prepend_text: str = ""
  subfield_separator: str = " "
  add_bos: bool = True
  add_eos: bool = True
  tokenizer: str | None = None
  tokenizer_pattern: str | None = None
  parse_special_tokens: bool = False
  max_bad_fraction: Fraction = 0.0
  seed: Seed = 0

  def vocabulary(self) -> Vocabulary:
    if self.tokenizer is None:
      return _BYTES
    return load_tokenizer(
      self.tokenizer,
      parse_special_tokens=self.parse_special_tokens,
      pattern=self.tokenizer_pattern,
    )

  def document_start(self) -> int | None:
    return self.vocabulary().bos_id if self.add_bos else None

  def recipes(self) -> Recipes:
    names = [field.name for field in dataclasses.fields(Recipes)]
    return Recipes(**{name: getattr(self, name) for name in names})

  def check_recipes(self) -> None:
    """UserError where recipe or tokenizer are none, contradict each other or have no effect."""
    for name in ("tokenizer_pattern", "parse_special_tokens"):
      if self.tokenizer is None and (value := getattr(self, name)):
        raise UserError(
          f"{name}={value!r} is for a tokenizer, and there is none: set tokenizer"
        )
    self.recipes().check(self.vocabulary())

  def check_fractions(self, **fractions: float) -> None:
    """UserError where one of these, or max_bad_fraction, is not from 0 to 1."""
    for name, value in {**fractions, "max_bad_fraction": self.max_bad_fraction}.items():
      if not 0 <= value <= 1:
        raise UserError(f"{name}={value} is not a fraction; give 0 to 1")
