"""A mixture is refused where it would not be what it says, and evaluated on all of it."""

import json

import fiddle as fdl
import numpy as np
import pytest

from input_pipelines.batches import TARGETS, WEIGHTS
from layers.errors import UserError
from runners.configs.derived import derive_eval_data
from runners.trainer import Trainer
from tasks.jsonl import Jsonl
from tasks.mixture import Mixture
from tasks.text_file import TextFile


def write(path, letter, count):
  lines = (json.dumps({"text": letter * (5 + i % 20)}) for i in range(count))
  path.write_text("\n".join(lines))
  return str(path)


@pytest.fixture
def sources(tmp_path, monkeypatch):
  monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
  return {
    name: Jsonl(
      files=write(tmp_path / f"{name}.jsonl", name[0], count), validation_fraction=0.2
    )
    for name, count in (("web", 300), ("code", 50))
  }


def opened(mixture, tmp_path, **changes):
  order = {"sequence_length": 32, "batch_size": 4, "seed": 0, **changes}
  return mixture.open(cache_dir=str(tmp_path / "cache"), **order)


def test_rates_are_kept_and_the_order_in_which_sources_are_named_is_none(sources, tmp_path):
  rates = {"web": 1, "code": 3}
  batches = opened(Mixture(sources=sources, rates=rates), tmp_path)
  tokens = batches.tokens_by_source(0, 2500)
  assert tokens["code"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.02)
  assert list(batches.description) == ["code", "web"]
  assert batches.description["code"].startswith("75.00% of the rows, ")
  other_way = {name: sources[name] for name in reversed(sources)}
  again = opened(Mixture(sources=other_way, rates={"code": 3, "web": 1}), tmp_path)
  assert batches.content == again.content
  for n in (0, 1, 3000):
    np.testing.assert_array_equal(batches[n][TARGETS], again[n][TARGETS])


def test_evaluation_reads_all_of_every_source_whatever_the_rates(sources, tmp_path):
  mixture = Mixture(sources=sources, rates={"web": 1, "code": 3}, split="validation")
  sums = []
  for batch_size in (1, 4):
    batches = opened(mixture, tmp_path, seed=None, batch_size=batch_size)
    sums.append(sum(batch[WEIGHTS].sum() for batch in batches))
    assert "of the rows" not in batches.description["code"]
  alone = [
    opened(Mixture(sources={name: data}, split="validation"), tmp_path, seed=None)
    for name, data in sources.items()
  ]
  assert sums == [sum(batch[WEIGHTS].sum() for one in alone for batch in one)] * 2
  limited = Mixture(sources=sources, split="validation", num_batches=2)
  assert opened(limited, tmp_path, seed=None).num_batches == 2


def test_other_text_in_a_source_is_another_content(sources, tmp_path):
  before = opened(Mixture(sources=sources), tmp_path).content
  write(tmp_path / "code.jsonl", "d", 50)
  assert opened(Mixture(sources=sources), tmp_path).content != before


def test_a_damaged_source_is_mended_while_it_is_read(sources, tmp_path, monkeypatch, capfd):
  monkeypatch.setattr("input_pipelines.token_store._CHECKED_WHOLE_BYTES", -1)
  intact = opened(Mixture(sources=sources), tmp_path)
  path = tmp_path / "cache" / intact.description["web"].rpartition("/")[2] / "tokens.bin"
  batches = opened(Mixture(sources=sources), tmp_path)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  wanted = opened(Mixture(sources=sources), tmp_path / "other")
  for n in range(10):
    np.testing.assert_array_equal(batches[n][TARGETS], wanted[n][TARGETS])
  assert "is damaged" in capfd.readouterr().err


def test_what_cannot_be_mixed_is_the_users_error(sources, tmp_path):
  (tmp_path / "text.txt").write_text("some text " * 100)
  letters = TextFile(path=str(tmp_path / "text.txt"))
  limited = Jsonl(files=sources["web"].files, num_batches=3)
  equal = Jsonl(files=sources["web"].files, equal_documents=True)
  wrong = [
    ({"sources": {}}, {}, "a mixture needs sources; give sources="),
    ({"sources": sources, "rates": {"web": 1}}, {}, "give each source a rate, or none"),
    ({"sources": sources, "rates": {"web": 1, "code": 0}}, {}, "the rate of 'code' is 0"),
    ({"sources": {"x": "text"}}, {}, "the source 'x' is str, which cannot be mixed"),
    ({"sources": {**sources, "text": letters}}, {}, "'code' and 'text' have different vocab"),
    ({"sources": {**sources, "equal": equal}}, {}, "equal_documents is set for some sources"),
    ({"sources": {"web": limited}}, {}, "num_batches=3 of the source 'web' has no effect"),
    ({"sources": sources, "num_batches": 2}, {}, "num_batches=2 limits evaluation data"),
    (
      {"sources": sources, "rates": {"web": 1, "code": 1}},
      {"num_epochs": 2},
      "a mixture with rates has no epochs",
    ),
    ({"sources": sources}, {"sequence_length": 0}, "sequence_length=0 leaves nothing"),
  ]
  for fields, changes, message in wrong:
    with pytest.raises(UserError, match=message) as raised:
      opened(Mixture(**fields), tmp_path, **changes)
    assert "\n" not in str(raised.value)


def test_evaluation_data_take_sources_and_rates_from_the_training_data(sources):
  train = fdl.Config(Mixture, sources=sources, rates={"web": 1, "code": 1})
  validation = fdl.Config(Mixture, split="validation")
  config = fdl.Config(Trainer, train_data=train, eval_data={"validation": validation})
  derived = fdl.build(derive_eval_data(config).eval_data["validation"])
  assert derived == Mixture(sources=sources, rates=train.rates, split="validation")
