"""Examples in JSON lines or Parquet as language-modelling data, without a line of Python.

    --set=train_data=@Jsonl(files='my/*.jsonl')
    --set=train_data.fields='[question],answer'

input_pipelines/field_grammar.py defines which fields become tokens, and which are learned.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from input_pipelines.example_files import (
  MAX_LINE_BYTES,
  ExampleFile,
  facts_of,
  find_files,
  scan_files,
)
from input_pipelines.jsonl_tokens import SPLITS, Corpus, TokenisedExamples
from input_pipelines.store_builder import Tokenised
from input_pipelines.text_data import TextData
from layers.errors import UserError
from layers.ranges import Fraction, PositiveInt
from tasks.example_text import PREPROCESSING, ExampleText
from tasks.python_stdlib import PythonStdlib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl(ExampleText):
  """Each line is an example, in one or many files; without files, the Python sources as bytes.

  Attributes:
    files: paths, globs and URLs; plain, .gz, .zst or .parquet.
    validation_fraction: the fraction (0 to 1) of lines in the validation split, chosen by a
      hash of each line; 1: all lines.
    max_line_bytes: a longer line counts as bad and is not read into memory; tokenising a line
      takes about twenty times its size.
    The others are those of ExampleText.
  """

  files: str | Sequence[str] | None = None
  validation_fraction: Fraction = 0.01
  max_line_bytes: PositiveInt = MAX_LINE_BYTES

  def name(self) -> str:
    if self.files is None:
      return self._embedded().name()
    names = find_files(self.files)
    stem = re.sub(r"\W+", "_", Path(names[0]).name.partition(".")[0])
    return f"jsonl-{stem}" + (f"-and-{len(names) - 1}" if len(names) > 1 else "")

  def identity(self) -> dict[str, Any]:
    if self.files is None:
      return self._embedded().identity()
    return {
      "source": "jsonl",
      "preprocessing": PREPROCESSING,
      **facts_of(self._scanned()),
      "recipes": dataclasses.asdict(self.recipes()),
      "validation_fraction": self.validation_fraction,
      # A stricter run must not reuse a store built by a more tolerant one.
      "max_bad_fraction": self.max_bad_fraction,
      **self._unusual_limit(),
    }

  def _unusual_limit(self) -> dict[str, int]:
    """The limit for the identity. The default is left out, so that older stores stay valid."""
    is_usual = self.max_line_bytes == MAX_LINE_BYTES
    return {} if is_usual else {"max_line_bytes": self.max_line_bytes}

  def tokenise(self) -> Tokenised:
    if self.files is None:
      return self._embedded().tokenise()
    corpus = Corpus(
      self._scanned(), self.recipes(), self.vocabulary(), float(self.validation_fraction)
    )
    return TokenisedExamples(corpus, self.split, self.max_bad_fraction)

  def check(self) -> None:
    if self.split not in SPLITS:
      raise UserError(f"no split {self.split!r}; JSON lines have 'train' and 'validation'")
    self.check_fractions(validation_fraction=self.validation_fraction)
    if self.files is None:
      self._check_without_files()
      self._embedded().check()
    else:
      self.check_recipes()
      find_files(self.files)

  def _check_without_files(self) -> None:
    """Raises UserError for fields that have no effect without files."""
    others = {field.name for field in dataclasses.fields(TextData)} | {"files"}
    for field in dataclasses.fields(self):
      if field.name not in others and getattr(self, field.name) != field.default:
        raise UserError(
          f"{field.name}={getattr(self, field.name)!r} is for files, and there are none: "
          "name some with --set=train_data.files='my/*.jsonl'"
        )

  def _embedded(self) -> PythonStdlib:
    return PythonStdlib(split=self.split, num_batches=self.num_batches)

  def _scanned(self) -> tuple[ExampleFile, ...]:
    assert self.files is not None
    return scan_files(find_files(self.files), self.max_line_bytes)
