"""Without loss weights, a batch, an interval or a set has no number, and has not diverged."""

import dataclasses
import json
from typing import Any

import fiddle as fdl
import jax
import numpy as np
import pytest

from input_pipelines.batches import WEIGHTS
from layers.errors import UserError
from runners import optimizers
from runners.callbacks import EarlyStopping, StopOnNonFinite
from runners.checkpoints.listing import steps
from runners.checkpoints.retention import Checkpoints
from runners.devices.meshes import place
from runners.evaluate_run import evaluate
from runners.metrics.writers import Console, JsonLines
from runners.training import train
from tasks.language_modeling import NextToken
from tasks.weighted_metrics import measured, metric_names
from tests.runners.toy_run import ToyText, begin, snapshot, toy_config


@dataclasses.dataclass(frozen=True)
class Masked:
  """The batches of `inner`; those in `blank` have no loss weight."""

  inner: Any
  blank: tuple[int, ...] | None

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    batch = dict(self.inner[n])
    if self.blank is None or n in self.blank:
      batch[WEIGHTS] = np.zeros_like(batch[WEIGHTS])
    return batch

  def __getattr__(self, name: str) -> Any:
    return getattr(self.inner, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedText(ToyText):
  """Some batches, or all with None, are questions without an answer."""

  blank: tuple[int, ...] | None = ()

  def open(self, **order: Any) -> Any:
    return Masked(super().open(**order), self.blank)


def _config(blank=(1, 2), **fields):
  fields = {
    "train_data": fdl.Config(MaskedText, blank=blank),
    "eval_data": {"validation": fdl.Config(MaskedText, split="validation", blank=None)},
    "callbacks": [fdl.Config(StopOnNonFinite), fdl.Config(EarlyStopping, patience=1)],
    "checkpoints": fdl.Config(Checkpoints, every=1, keep_latest=9, keep_best=1),
    "writers": [fdl.Config(JsonLines), fdl.Config(Console)],
    "log_every": 1,
    "eval_every": 2,
    "num_steps": 4,
  } | fields
  return toy_config(**fields)


def _rows(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_goes_on_and_logs_no_loss_for_such_a_step(tmp_path, capsys):
  assert train(_config(), "toy.Run", str(tmp_path)) == 0
  rows = _rows(tmp_path)
  assert ["train/loss" in row for row in rows] == [True, False, False, True]
  assert [row["train/grad_norm"] == 0.0 for row in rows] == [False, True, True, False]
  assert not any(isinstance(value, str) for row in rows for value in row.values())  # no NaN
  assert steps(str(tmp_path)) == [1, 2, 3, 4]
  said = capsys.readouterr()
  assert said.err.count("eval_data['validation'] has nothing to measure loss and bits") == 1
  assert "validation" not in said.out  # no number to print


def test_an_interval_with_some_weight_is_averaged_over_what_it_has(tmp_path):
  train(_config(blank=(1,)), "toy.Run", str(tmp_path / "each"))
  train(_config(blank=(1,), log_every=2), "toy.Run", str(tmp_path / "two"))
  each, two = _rows(tmp_path / "each"), _rows(tmp_path / "two")
  assert two[0]["step"] == 2 and two[0]["train/loss"] == each[0]["train/loss"]


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_its_gradients_are_zero_and_the_parameters_stay_as_they_are(microbatch_size):
  plain = fdl.Config(optimizers.sgdm, learning_rate=1.0)
  assembly, state = begin(_config(None, microbatch_size=microbatch_size, optimizer=plain))
  before = snapshot(state.params)
  batch = place(assembly.batches[0], assembly.batch_sharding)
  state, loss = assembly.train_step()(state, batch)
  assert float(loss) == 0.0 and float(state.metrics.grad_norm.total) == 0.0
  assert jax.tree.all(jax.tree.map(np.array_equal, before, snapshot(state.params)))


def test_a_set_without_weights_is_evaluated_to_no_number(tmp_path, capsys):
  config = _config()
  train(config, "toy.Run", str(tmp_path))
  capsys.readouterr()
  assert evaluate(config, str(tmp_path)) == 0
  assert capsys.readouterr().out == "step 4  nothing was measured\n"


def test_a_misspelt_metric_is_still_refused(tmp_path):
  watching = fdl.Config(EarlyStopping, metric="eval/validation/los")
  text = fdl.Config(ToyText, split="validation")
  with pytest.raises(UserError, match="did you mean eval/validation/loss"):
    train(
      _config(callbacks=[watching], eval_data={"validation": text}), "toy.Run", str(tmp_path)
    )


def test_what_is_measured_on_something_is_told_from_what_is_not():
  objective = NextToken(z_loss=0.1)
  assert metric_names(objective) == ["loss", "z_loss"]
  collection = jax.device_get(objective.empty_metrics())
  assert measured(objective, collection) == ({}, ["loss", "z_loss"])
  some = jax.tree.map(lambda x: np.ones_like(x), collection)
  assert measured(objective, some) == ({"loss": 1.0, "z_loss": 1.0}, [])
