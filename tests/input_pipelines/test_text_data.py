"""Text data are checked once, opened from their store, and refused in one line."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from input_pipelines.store_builder import Piece
from input_pipelines.text_data import TextData
from input_pipelines.vocabularies import ByteVocabulary
from layers.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(TextData):
  """One document, 0 to 99."""

  calls: list[str] = dataclasses.field(default_factory=list)
  num_shards = 1

  def name(self) -> str:
    return "numbers"

  def vocabulary(self) -> ByteVocabulary:
    return ByteVocabulary()

  def identity(self) -> dict[str, Any]:
    return {"source": "numbers"}

  def tokenise(self) -> "Numbers":
    self.calls.append("tokenise")
    return self

  def pieces(self, shard: int, first: int):
    yield from [Piece(np.arange(100))][first:]

  def check(self) -> None:
    self.calls.append("check")
    if self.split != "train":
      raise UserError(f"no split {self.split!r}")


def test_opening_checks_the_configuration_once(tmp_path):
  data = Numbers()
  data.open(sequence_length=8, batch_size=2, cache_dir=str(tmp_path), seed=0)
  assert data.calls == ["check", "tokenise"]
  data.store(str(tmp_path))
  assert data.calls == ["check", "tokenise", "check"]


@pytest.mark.parametrize("ask", ["open", "store"])
def test_a_wrong_configuration_is_refused_before_anything_is_built(tmp_path, ask):
  data = Numbers(split="test")
  with pytest.raises(UserError, match="no split 'test'"):
    if ask == "store":
      data.store(str(tmp_path))
    else:
      data.open(sequence_length=8, batch_size=2, cache_dir=str(tmp_path), seed=0)
  assert data.calls == ["check"] and not list(tmp_path.iterdir())
