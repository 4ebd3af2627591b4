"""A start builds what its config describes once, and derives once what follows from it."""

import collections
import dataclasses

import fiddle as fdl
import pytest

from runners import optimizers, schedules
from runners.blueprint import draw, lay_ground
from runners.evaluate_run import evaluate
from runners.generation.generate_run import Request, generate
from runners.planning.ahead_of_time import plan_step
from runners.planning.sharding_report import sharding_report
from runners.training import train
from tests.runners.toy_run import ToyText, toy_config

made = collections.Counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountedText(ToyText):
  def __post_init__(self):
    made[self.split] += 1


def counted_schedule(num_steps=None):
  made["schedule"] += 1
  return schedules.warmup_linear(peak=1.0, num_steps=num_steps, warmup=0)


@pytest.fixture(scope="module")
def config():
  return toy_config(
    train_data=fdl.Config(CountedText),
    eval_data={"validation": fdl.Config(CountedText, split="validation", num_batches=1)},
    optimizer=fdl.Config(optimizers.sgdm, learning_rate=fdl.Config(counted_schedule)),
    num_steps=2,
  )


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
  """Of a finished run."""
  folder = tmp_path_factory.mktemp("once") / "run"
  train(config, "toy.Run", str(folder), cache_dir=str(folder.parent / "cache"))
  return str(folder)


STARTS = {
  "train": lambda config, workdir: train(config, "toy.Run", workdir, cache_dir=workdir),
  "eval": lambda config, workdir: evaluate(config, workdir, cache_dir=workdir),
  "generate": lambda config, workdir: generate(
    config, workdir, Request(prompts=["ab"], max_tokens=1), cache_dir=workdir
  ),
  "plan": lambda config, workdir: plan_step(config, None),
  "show --sharding": lambda config, workdir: sharding_report(config, "toy.Run"),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_data_and_schedules_are_built_once_a_start(start, config, workdir):
  made.clear()
  start(config, workdir)
  assert made == {"train": 1, "validation": 1, "schedule": 1}


def test_a_run_of_epochs_makes_its_schedule_again_once_its_length_is_known(config, tmp_path):
  config = fdl.copy_with(config, num_steps=None, num_epochs=1)
  made.clear()
  train(config, "toy.Run", str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"))
  assert made == {"train": 1, "validation": 1, "schedule": 2}


def test_the_optimizer_steps_at_the_rate_that_is_logged(config):
  rates.clear()
  optimizer = fdl.Config(_noting, learning_rate=fdl.Config(counted_schedule))
  blueprint = _drawn(fdl.copy_with(config, optimizer=optimizer))
  (rate,) = rates
  assert rate is blueprint.learning_rates["learning_rate"]


rates = []


def _noting(learning_rate):
  rates.append(learning_rate)
  return optimizers.sgdm(learning_rate)


def test_nodes_that_training_and_evaluation_data_share_are_one_object():
  letters = fdl.Config(_Letters)
  config = toy_config(
    train_data=fdl.Config(CountedText, letters=letters),
    eval_data={"validation": fdl.Config(CountedText, letters=letters, split="validation")},
  )
  ground = lay_ground(config)
  assert ground.train_data.letters is ground.eval_data["validation"].letters
  trainer = _drawn(config).trainer
  assert trainer.train_data.letters is trainer.eval_data["validation"].letters


class _Letters(str):
  def __new__(cls):
    return super().__new__(cls, "abcdefghijklmnopqrs")


def test_a_blueprint_of_steps_knows_its_length_and_one_of_epochs_is_told():
  rate = fdl.Config(schedules.warmup_linear, peak=1.0, warmup=0)
  optimizer = fdl.Config(optimizers.sgdm, learning_rate=rate)
  of_steps = _drawn(toy_config(optimizer=optimizer, num_steps=8))
  assert of_steps.of_length(8) is of_steps
  of_epochs = _drawn(toy_config(optimizer=optimizer, num_steps=None, num_epochs=1))
  told = of_epochs.of_length(8).of_length(8)
  assert (
    float(told.learning_rates["learning_rate"](4))
    == float(of_steps.learning_rates["learning_rate"](4))
    > 0.0
  )
  assert told.trainer.model is of_epochs.trainer.model


def _drawn(config):
  ground = lay_ground(config)
  return draw(ground, ground.mesh.build())
