"""Text data are checked once, opened from their store, and refused in one line."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from input_pipelines import token_store
from input_pipelines.batches import INPUTS, same_content
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edited(Numbers):
  """Numbers from a source that a test edits: what the tokens are, and what is known of them."""

  source: dict[str, Any] = dataclasses.field(default_factory=lambda: {"known": 0, "add": 0})

  def identity(self) -> dict[str, Any]:
    return {"source": self.source["known"]}

  def pieces(self, shard: int, first: int):
    yield from [Piece(np.arange(100) + self.source["add"])][first:]


@pytest.fixture
def damaged(tmp_path, monkeypatch):
  """Data, batches of them, and their store, too large to be checked at once and damaged."""
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)
  data = Edited()
  batches = data.open(sequence_length=8, batch_size=2, cache_dir=str(tmp_path), seed=0)
  (store,) = [path for path in tmp_path.iterdir() if path.is_dir()]
  with (store / "tokens.bin").open("r+b") as file:
    file.write(b"\1")
  return data, batches, store


def test_a_damaged_store_whose_source_is_the_same_is_read_on(damaged):
  _, batches, store = damaged
  content = batches.content
  rows = {tuple(row.tolist()) for n in range(6) for row in batches[n][INPUTS]}
  assert {row[0] for row in rows} <= set(range(0, 97, 8)) and batches.content == content
  token_store.TokenStore(store).verify()


def test_a_repair_that_gives_other_tokens_is_refused_every_time(damaged):
  data, batches, store = damaged
  data.source["add"] = 1  # as a data file that the identity does not know of
  for n in (0, 0, 3):
    with pytest.raises(UserError, match="the train data changed while they were read") as e:
      batches[n]
    assert str(store) in str(e.value) and "put back" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_repair_from_a_source_that_is_known_to_be_another_builds_nothing(damaged):
  data, batches, store = damaged
  data.source.update(known=1, add=1)  # as a text file that was edited
  data.calls.clear()
  with pytest.raises(UserError, match="the train data changed while they were read"):
    batches[0]
  assert "tokenise" not in data.calls
  assert [path for path in store.parent.iterdir() if path.is_dir()] == [store]


def test_the_content_names_the_tokens_and_not_only_their_source(tmp_path):
  data = Edited()
  contents = []
  for cache, add in (("a", 0), ("b", 0), ("c", 1)):
    data.source["add"] = add
    batches = data.open(
      sequence_length=8, batch_size=2, cache_dir=str(tmp_path / cache), seed=0
    )
    contents.append(batches.content)
  assert contents[0] == contents[1] != contents[2]
  assert not same_content(contents[0], contents[2])


def test_a_content_noted_without_a_checksum_is_compared_by_its_address():
  assert same_content("0a1b", "0a1b:77") and same_content("0a1b:77", "0a1b:77")
  assert not same_content("0a1b:77", "0a1b:78")
  assert not same_content("0a1b", "0a1c:77") and not same_content("toy-4", "toy-5")
