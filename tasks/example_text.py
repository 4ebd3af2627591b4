"""The common part of data made of examples with fields: recipe, tokenizer, tolerance."""

import dataclasses

from input_pipelines.field_grammar import Recipes
from input_pipelines.text_data import TextData
from input_pipelines.tokenizer_files import load_tokenizer
from input_pipelines.vocabularies import ByteVocabulary, Vocabulary
from layers.errors import UserError
from layers.ranges import Fraction, Seed

# Part of a store's identity: raise it with any change that gives other tokens.
PREPROCESSING = 1
_BYTES = ByteVocabulary()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleText(TextData):
  """Text of examples that have fields, by the grammar of input_pipelines/field_grammar.py.

  Attributes:
    fields: the recipe, such as '[question],answer'.
    fields_from_example: the field in which each example brings its own recipe, or several.
    prepend_text: text put before the text of the first field.
    subfield_separator: text that `a+b` puts between two fields.
    add_bos: BOS in front of each example, if the vocabulary has one.
    add_eos: EOS at its end, with loss weight 1, if the vocabulary has one.
    tokenizer: a SentencePiece .model, a tokenizer.json or BPE ranks (.tiktoken); None: bytes.
    tokenizer_pattern: how BPE ranks split text into words, if their number does not tell:
      'gpt2', 'cl100k_base', 'llama3', 'o200k_base' or a regular expression.
    parse_special_tokens: text written like a special token, such as '</s>', becomes that
      token. False: it stays text, like the rest of a document.
    max_bad_fraction: the fraction (0 to 1) of examples that may be unreadable and are left out;
      0: the first unreadable one is an error.
    seed: picks one of the recipes that an example brings.
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
    """The fields above that say how an example becomes tokens."""
    names = [field.name for field in dataclasses.fields(Recipes)]
    return Recipes(**{name: getattr(self, name) for name in names})

  def check_recipes(self) -> None:
    """Raises UserError if recipe or tokenizer are invalid, contradictory or without effect."""
    for name in ("tokenizer_pattern", "parse_special_tokens"):
      if self.tokenizer is None and (value := getattr(self, name)):
        raise UserError(
          f"{name}={value!r} is for a tokenizer, and there is none: set tokenizer"
        )
    self.recipes().check(self.vocabulary())

  def check_fractions(self, **fractions: float) -> None:
    """Raises UserError unless each of these, and max_bad_fraction, is from 0 to 1."""
    for name, value in {**fractions, "max_bad_fraction": self.max_bad_fraction}.items():
      if not 0 <= value <= 1:
        raise UserError(f"{name}={value} is not a fraction; give 0 to 1")
