"""Hugging Face data sets as language-modelling data: @HuggingFace, with the extra `hf`.

--set=train_data=@HuggingFace(path='c4', subset='en', streaming=True)
--set=train_data=@HuggingFace(path='json', data_files='my/*.json', fields='[question],answer')
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from input_pipelines.hugging_face_rows import DatasetSource, as_tuple, check_source
from input_pipelines.jsonl_tokens import SPLITS, TRAIN, Corpus, TokenisedExamples
from input_pipelines.store_builder import Tokenised
from layers.errors import UserError
from layers.ranges import Fraction, PositiveInt
from tasks.example_text import PREPROCESSING, ExampleText


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFace(ExampleText):
  """Each row is an example. The tokens are stored, so that streamed data resume like any other.

  Attributes:
    path: a name on the hub, a folder that `save_to_disk` wrote, or a kind of file ('json').
    subset: the data set's subset, if it has several.
    data_files: paths, globs or URLs, for a kind of file.
    revision: of the data set on the hub.
    streaming: read over the network without a local copy: once for each split, and once before
      to count bad rows if max_bad_fraction tolerates some.
    num_examples: take only so many rows, from the start of the split; None: all.
    validation_fraction: the fraction (0 to 1) of the rows of 'train' that form the validation
      split, chosen by a hash of each row. None: the data set has its own splits.
    The others are those of ExampleText.
  """

  path: str | None = None
  subset: str | None = None
  data_files: str | Sequence[str] | None = None
  revision: str | None = None
  streaming: bool = False
  num_examples: PositiveInt | None = None
  validation_fraction: Fraction | None = None

  def name(self) -> str:
    named = "-".join(filter(None, (self.path, self.subset)))
    return "hf-" + re.sub(r"\W+", "_", named).strip("_")

  def identity(self) -> dict[str, Any]:
    self.check()
    return {
      "source": "hugging_face",
      "preprocessing": PREPROCESSING,
      "dataset": self._source().fingerprint(),
      "num_examples": self.num_examples,
      "recipes": dataclasses.asdict(self.recipes()),
      "validation_fraction": self.validation_fraction,
      "max_bad_fraction": self.max_bad_fraction,
    }

  def tokenise(self) -> Tokenised:
    own_splits = self.validation_fraction is None
    rows = self._source().rows(self.split if own_splits else TRAIN, self.num_examples)
    corpus = Corpus(
      (rows,), self.recipes(), self.vocabulary(), float(self.validation_fraction or 0)
    )
    split = TRAIN if own_splits else self.split  # nothing held out: every row counts as train
    return TokenisedExamples(corpus, split, self.max_bad_fraction, read_once=self.streaming)

  def check(self) -> None:
    check_source(self._source())
    self.check_fractions(validation_fraction=self.validation_fraction or 0)
    if self.num_examples is not None and self.num_examples < 1:
      raise UserError(f"num_examples={self.num_examples} leaves nothing to read; set 1 or more")
    if self.validation_fraction is not None and self.split not in SPLITS:
      raise UserError(
        f"no split {self.split!r} with validation_fraction={self.validation_fraction}; there "
        "are 'train' and 'validation'"
      )
    self.check_recipes()

  def _source(self) -> DatasetSource:
    return DatasetSource(
      path=self.path or "",
      subset=self.subset,
      data_files=as_tuple(self.data_files),
      revision=self.revision,
      streaming=self.streaming,
    )
