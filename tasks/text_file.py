"""Any local text file, as characters or as bytes, with its last tenth held out.

The file is one document. It is split at the same character as nanoGPT's shakespeare_char
(https://github.com/karpathy/nanoGPT, data/shakespeare_char) and has the same vocabulary, the
sorted characters of the whole file. So losses compare directly.

    runner --exp=gpt2.ShakespeareChar --set=train_data.path=tinyshakespeare.txt
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipelines.documents import PREPROCESSING, DocumentSource, Text
from input_pipelines.store_builder import Tokenised
from input_pipelines.text_data import TextData
from input_pipelines.text_scan import TextScan, scan_text
from input_pipelines.vocabularies import ByteVocabulary, CharacterVocabulary, Vocabulary
from layers.errors import UserError
from layers.ranges import FractionBelowOne

TRAIN = "train"
VALIDATION = "validation"

_PARTS_PER_SHARD = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile(TextData):
  """A UTF-8 text file as one document.

  Attributes:
    path: of the file.
    tokens: whether a token is a character or a byte.
    validation_fraction: the fraction (0 up to, but not including, 1) of characters, at the end
      of the file, that form the validation split.
  """

  path: str | None = None
  tokens: Literal["characters", "bytes"] = "characters"
  validation_fraction: FractionBelowOne = 0.1

  def vocabulary(self) -> Vocabulary:
    scan = self._scan()
    return ByteVocabulary() if self.tokens == "bytes" else CharacterVocabulary(scan.characters)

  def name(self) -> str:
    stem = re.sub(r"[^\w.]+", "_", Path(self.path or "").stem)
    return f"text_file-{stem}-{self.tokens}"

  def identity(self) -> dict[str, Any]:
    scan = self._scan()
    return {
      "source": "text_file",
      "preprocessing": PREPROCESSING,
      "bytes": scan.num_bytes,
      "sha256": scan.sha256,
      "validation_fraction": self.validation_fraction,
    }

  def tokenise(self) -> Tokenised:
    from input_pipelines.seqio_tasks import TokenisedTask

    return TokenisedTask(self.seqio_task(), self.split)

  def seqio_task(self) -> Any:
    """The seqio Task with both splits, registered under a name with the content's hash."""
    from input_pipelines.seqio_tasks import register_documents

    name = f"{self.name()}_{self.validation_fraction}_{self._scan().sha256[:16]}"
    return register_documents(re.sub(r"\W", "_", name), self.source(), self.vocabulary())

  def source(self) -> DocumentSource:
    """The file as a DocumentSource: each split is one document."""
    scan = self._scan()
    return _TextSplits(scan, self._cut(scan))

  def num_tokens(self) -> int:
    scan = self._scan()
    start, end = 0, self._cut(scan)
    if self.split == VALIDATION:
      start, end = end, scan.num_characters
    if self.tokens == "bytes":
      return scan.byte_of(end) - scan.byte_of(start) + 2  # BOS and EOS
    return end - start

  def check(self) -> None:
    if self.split not in _TextSplits.splits:
      raise UserError(
        f"a text file has no split {self.split!r}; it has 'train' and 'validation'"
      )
    scan = self._scan()
    cut = self._cut(scan)
    for split, size in ((TRAIN, cut), (VALIDATION, scan.num_characters - cut)):
      if self.split == split and size < 2:
        raise UserError(
          f"the text file {self.path} of {scan.num_characters} characters with "
          f"validation_fraction={self.validation_fraction} leaves {size} for the {split} "
          "split; give a longer text or another fraction"
        )

  def _scan(self) -> TextScan:
    if not self.path:
      raise UserError("no text file given; name one with --set=train_data.path=FILE")
    if not 0 <= self.validation_fraction < 1:
      raise UserError(
        f"validation_fraction={self.validation_fraction} is not a fraction; give "
        "a number from 0 up to, but not including, 1"
      )
    if self.tokens not in ("characters", "bytes"):
      raise UserError(f"tokens={self.tokens!r} is unknown; choose 'characters' or 'bytes'")
    return scan_text(os.path.expanduser(self.path))

  def _cut(self, scan: TextScan) -> int:
    return int(scan.num_characters * (1 - self.validation_fraction))


class _TextSplits:
  """The file before and after a character: two documents, each in parts (DocumentSource)."""

  splits = (TRAIN, VALIDATION)

  def __init__(self, scan: TextScan, cut: int):
    self._scan = scan
    cut_byte = scan.byte_of(cut)
    bounds = scan.part_bytes
    self._bounds = {  # first byte of each part, then the end of the last one
      TRAIN: np.append(bounds[bounds < cut_byte], cut_byte),
      VALIDATION: np.append(cut_byte, bounds[bounds > cut_byte]),
    }

  def num_shards(self, split: str) -> int:
    return -(-(len(self._bounds[split]) - 1) // _PARTS_PER_SHARD)

  def read(self, split: str, shard: int) -> Iterator[Text]:
    bounds = self._bounds[split].tolist()
    num_parts = len(bounds) - 1
    first = shard * _PARTS_PER_SHARD
    for part in range(first, min(first + _PARTS_PER_SHARD, num_parts)):
      yield Text(
        self._scan.read(bounds[part], bounds[part + 1]),
        starts_document=part == 0,
        ends_document=part == num_parts - 1,
      )
