"""A run whose token store was damaged builds it again, says so, and goes on bitwise."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import fiddle as fdl
import numpy as np
import pytest

from input_pipelines import token_store
from input_pipelines.store_builder import Piece
from input_pipelines.text_data import TextData
from input_pipelines.token_store import TokenStore
from input_pipelines.vocabularies import CharacterVocabulary
from layers.errors import UserError
from runners.metrics.writers import JsonLines
from runners.training import train
from tests.runners.toy_run import LETTERS, toy_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredText(TextData):
  """150 documents of about 1,000 random letters: five blocks of a token store."""

  def name(self) -> str:
    return "toy"

  def vocabulary(self) -> CharacterVocabulary:
    return CharacterVocabulary(LETTERS)

  def identity(self) -> dict[str, Any]:
    return {"source": "toy"}

  def tokenise(self) -> "StoredText":
    return self

  num_shards = 1  # of Tokenised

  def pieces(self, shard: int, first: int):
    for number in range(first, 150):
      generator = np.random.default_rng(number)
      yield Piece(generator.integers(0, len(LETTERS), 1000 + number))


def losses(workdir: Path) -> list[dict]:
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def run(folder: Path, num_steps: int, *accepted: str) -> list[dict]:
  """Trains up to `num_steps` in `folder`, with a cache of its own there."""
  config = toy_config(
    num_steps=num_steps,
    train_data=fdl.Config(StoredText),
    writers=[fdl.Config(JsonLines)],
    log_every=1,
  )
  workdir, cache = folder / "run", folder / "cache"
  assert train(config, "toy.Run", str(workdir), (), ["num_steps", *accepted], str(cache)) == 0
  return losses(workdir)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
  """The folder of a run of 3 steps, and the rows of one that went on to 6 undisturbed."""
  folder = tmp_path_factory.mktemp("unbroken")
  run(folder, 3)
  shutil.copytree(folder, folder.with_name("halfway"))
  return folder.with_name("halfway"), run(folder, 6)


@pytest.fixture
def begun(halfway, tmp_path):
  """A folder of the test's own with the run of 3 steps, and its token store."""
  shutil.copytree(halfway[0], tmp_path, dirs_exist_ok=True)
  (store,) = [path for path in (tmp_path / "cache").glob("toy-*") if path.is_dir()]
  return tmp_path, store


def flip(store):
  """One bit in each block: whichever rows are drawn, some are in one of them."""
  with (store / "tokens.bin").open("r+b") as file:
    size = file.seek(0, os.SEEK_END)
    for start in range(0, size, 1 << 16):
      file.seek(start + 1000)
      byte = file.read(1)[0]
      file.seek(start + 1000)
      file.write(bytes([byte ^ 1]))


def truncate(store):
  os.truncate(store / "tokens.bin", 1000)


def empty(store):
  shutil.rmtree(store)
  store.mkdir()


def lose_the_index(store):
  (store / "index.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, truncate, empty, lose_the_index])
def test_the_next_start_says_it_and_goes_on_as_the_unbroken_run(halfway, begun, capsys, damage):
  folder, store = begun
  damage(store)
  capsys.readouterr()
  assert run(folder, 6) == halfway[1]
  said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
  assert len(said) == 1 and f"{store} is damaged (" in said[0]
  TokenStore(store).verify()


@pytest.mark.slow
def test_a_store_too_large_to_be_checked_at_the_start_is_built_again_on_the_way(
  halfway, begun, capsys, monkeypatch
):
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)
  folder, store = begun
  flip(store)
  capsys.readouterr()
  assert run(folder, 6) == halfway[1]
  said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
  assert len(said) == 1 and "tokens.bin has changed between bytes " in said[0]


@pytest.fixture
def other_text(monkeypatch):
  """The text is another, which its identity does not tell."""
  pieces = StoredText.pieces

  def other(self, shard, first):
    for piece in pieces(self, shard, first):
      yield Piece(piece.tokens[::-1])

  monkeypatch.setattr(StoredText, "pieces", other)


@pytest.mark.slow
@pytest.mark.parametrize("lose", [shutil.rmtree, flip, lose_the_index])
def test_a_store_built_again_from_another_text_is_refused_until_it_is_accepted(
  begun, other_text, lose
):
  folder, store = begun
  lose(store)
  before = losses(folder / "run")
  for _ in range(2):
    with pytest.raises(
      UserError, match="training data .* have changed .*--accept_change=train_data"
    ):
      run(folder, 4)
  assert losses(folder / "run") == before
  run(folder, 4, "train_data")
  assert len(run(folder, 5)) == 5  # what was accepted is what is compared from now on


@pytest.mark.slow
def test_a_text_that_changes_while_a_damaged_store_is_read_ends_the_run(
  begun, other_text, monkeypatch
):
  monkeypatch.setattr(token_store, "_CHECKED_WHOLE_BYTES", -1)
  folder, store = begun
  flip(store)
  before = losses(folder / "run")
  with pytest.raises(UserError, match="the train data changed while they were read"):
    run(folder, 6)
  assert losses(folder / "run") == before


@pytest.mark.slow
def test_a_checkpoint_that_notes_the_address_alone_goes_on(
  halfway, begun, tmp_path, monkeypatch
):
  folder, store = begun
  shutil.rmtree(folder / "run")
  with monkeypatch.context() as older:
    older.setattr(TokenStore, "content", store.name.rpartition("-")[2])
    run(folder, 3)
  assert run(folder, 6) == halfway[1]
