"""Makes tokens with loss weights from examples in files or data sets.

A seqio Task cannot do this: its preprocessors see tensors with fixed names and types, while a
recipe may read different fields on each line, and an unreadable example would end the tf.data
iteration or vanish silently. Plain Python, without TensorFlow, makes 5 million byte tokens/s on
a core. The pieces go to the token store like any Task's.

The files are read once before tokenising, so that every bad line is found and counted before
the work begins, wherever a build is interrupted.
"""

import collections
import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipelines.bad_examples import BadExamples
from input_pipelines.example_files import BadLines, ExampleFile, content_of
from input_pipelines.field_grammar import NOT_ENCODABLE, BadExample, Recipes
from input_pipelines.hugging_face_rows import DatasetRows
from input_pipelines.store_builder import Piece
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError

TRAIN = "train"
VALIDATION = "validation"
Source = ExampleFile | DatasetRows
SPLITS = (TRAIN, VALIDATION)


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Files, and how their lines become tokens. Equal corpora give equal tokens.

  A hash of its content decides whether a line belongs to the validation split. So it stays
  there when other lines come or go, and duplicates share a split.
  """

  files: tuple[Source, ...]
  recipes: Recipes
  vocabulary: Vocabulary
  validation_fraction: float

  def lines(self, split: str | None, file: Source, part: int) -> Iterator[tuple[int, Any]]:
    """(number, line) for the lines of one split; None: of all splits, BadLines included."""
    for number, line in file.read(part):
      if split is None or not isinstance(line, BadLines) and self.split_of(line) == split:
        yield number, line

  def split_of(self, line: Any) -> str:
    digest = hashlib.blake2b(content_of(line), digest_size=8).digest()
    is_held_out = int.from_bytes(digest, "big") < self.validation_fraction * 2**64
    return VALIDATION if is_held_out else TRAIN


@dataclasses.dataclass(frozen=True)
class Count:
  """The result of a pass over a corpus: good examples by split, number of lines, bad lines."""

  examples: collections.Counter[str]
  num_lines: int
  bad: BadExamples


@functools.lru_cache(maxsize=8)  # for all splits of one corpus
def count_examples(corpus: Corpus, max_bad_fraction: float) -> Count:
  """Counts the good examples of each split in one pass that tokenises nothing.

  Raises UserError if more than `max_bad_fraction` of the lines are bad; tolerated bad lines are
  reported on stderr.
  """
  bad = BadExamples(max_bad_fraction)
  counts: collections.Counter[str] = collections.Counter()
  num_lines = 0
  for file in corpus.files:
    for part in range(len(file.parts)):
      for number, line in corpus.lines(None, file, part):
        if isinstance(line, BadLines):
          num_lines += line.count
          bad.add(file.path, number, line.kind, line.message, line.count)
          continue
        num_lines += 1
        try:
          corpus.recipes.check_example(_parsed(line), number, corpus.vocabulary)
        except BadExample as error:
          bad.add(file.path, number, error.kind, str(error))
          continue
        counts[corpus.split_of(line)] += 1
  bad.report(num_lines)
  return Count(counts, num_lines, bad)


class TokenisedExamples:
  """A split's good examples as tokens (Tokenised): a shard is a part of a file."""

  def __init__(
    self, corpus: Corpus, split: str, max_bad_fraction: float, *, read_once: bool = False
  ):
    """Raises UserError as `count_examples` does, and if the split has no example.

    With `read_once`, for data that are expensive to read, bad examples are found only while
    tokens are made, unless some are tolerated: then they are counted first.
    """
    self._read_once = read_once and max_bad_fraction <= 0
    self._bad, self._num_lines = BadExamples(max_bad_fraction), 0
    if not self._read_once:
      count = count_examples(corpus, max_bad_fraction)
      self._bad, self._num_lines = copy.deepcopy(count.bad), count.num_lines
      if not count.examples[split]:
        raise UserError(
          f"of {count.examples.total():,} examples none falls to the {split} split with "
          f"validation_fraction={corpus.validation_fraction}; give more examples or another "
          "fraction"
        )
    self._corpus = corpus
    self._split = split
    self._parts = [(file, part) for file in corpus.files for part in range(len(file.parts))]
    self._num_not_encodable = 0
    self.num_shards = len(self._parts)

  def pieces(self, shard: int, first: int) -> Iterator[Piece]:
    file, part = self._parts[shard]
    corpus = self._corpus
    for number, line in corpus.lines(self._split, file, part):
      try:
        example = _parsed(line)
        if first:  # stored already; bad examples never are
          corpus.recipes.check_example(example, number, corpus.vocabulary)
          first -= 1
          continue
        yield _piece(*corpus.recipes.encode(example, number, corpus.vocabulary))
      except BadExample as error:
        if self._is_counted(error, line, number):
          continue
        self._bad.add(file.path, number, error.kind, str(error))
        self._bad.check(self._num_lines)
        self._num_not_encodable += 1
        # An interrupted build continues by the number of pieces, so this example needs one too.
        yield Piece(np.zeros(0, np.int32), starts_document=False)
    if shard == self.num_shards - 1 and self._num_not_encodable:
      self._bad.report(self._num_lines)

  def _is_counted(self, error: BadExample, line: Any, number: int) -> bool:
    """Whether count_examples, which encodes nothing, has already counted this error."""
    if self._read_once:
      return False
    if error.kind != NOT_ENCODABLE:
      return True
    try:
      self._corpus.recipes.check_example(_parsed(line), number, self._corpus.vocabulary)
    except BadExample:  # a later field has an error that the count has found
      return True
    return False


def _piece(tokens: np.ndarray, weights: np.ndarray) -> Piece:
  """A document's piece, without weights if all are 1 after the first token, never a target."""
  return Piece(tokens, weights=None if weights[1:].all() else weights)


def _parsed(line: bytes | dict[str, Any]) -> Any:
  """The example on a line; BadExample if there is none."""
  if isinstance(line, dict):  # a row of a table
    return line
  try:
    return json.loads(line.rstrip().decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise BadExample(
      "invalid UTF-8", f"byte {error.start} (0x{error.object[error.start]:02x})"
    ) from None
  except json.JSONDecodeError as error:
    raise BadExample(
      "broken JSON", f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    ) from None
  except (ValueError, RecursionError) as error:
    raise BadExample("broken JSON", str(error)) from None
