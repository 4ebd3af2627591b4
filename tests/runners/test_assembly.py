"""What is wrong with an experiment shows before the workdir is touched, in one line."""

import fiddle as fdl
import jax
import pytest

from layers.errors import UserError
from runners import optimizers, schedules
from runners.assembly import assemble
from runners.training import train
from tests.runners.toy_run import ToyText, toy_config


def _assemble(**fields):
  return assemble(toy_config(**fields), cache_dir="unused")


@pytest.mark.parametrize(
  "fields, said",
  [
    ({"num_steps": None}, "set num_steps or num_epochs"),
    ({"num_epochs": 2}, "num_epochs=2 are both set; unset one"),
    ({"num_steps": 0}, "num_steps=0 must be at least 1"),
    ({"num_steps": None, "num_epochs": 0}, "num_epochs=0 must be at least 1"),
    ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ({"sequence_length": 0}, "sequence_length=0 must be at least 1"),
    ({"log_every": 0}, "log_every=0 must be at least 1"),
    ({"microbatch_size": 3}, "microbatch_size=3 does not divide batch_size=8"),
    ({"microbatch_size": 16}, "microbatch_size=16 does not divide batch_size=8"),
    ({"init_from": "nowhere"}, "no such run or checkpoint folder: nowhere"),
    ({"microbatch_size": -4}, "microbatch_size=-4 must be at least 1"),
    ({"eval_every": 0}, "eval_every=0 must be at least 1"),
  ],
)
def test_a_config_that_cannot_run_is_refused_and_nothing_is_written(tmp_path, fields, said):
  workdir = tmp_path / "run"
  with pytest.raises(UserError, match=said):
    train(toy_config(**fields), "toy.Run", str(workdir), cache_dir=str(tmp_path / "cache"))
  assert not workdir.exists()


def test_epochs_give_the_number_of_steps_and_the_schedule_follows():
  rate = fdl.Config(schedules.warmup_linear, peak=1.0, warmup=0)
  assembly = _assemble(
    num_steps=None,
    num_epochs=2,
    optimizer=fdl.Config(optimizers.sgdm, learning_rate=rate),
  )
  rows = assembly.batches.rows_per_epoch
  assert assembly.num_steps == -(-2 * rows // 8)
  rate = assembly.learning_rates["learning_rate"]
  assert float(rate(assembly.num_steps)) == 0.0
  assert float(rate(assembly.num_steps - 1)) > 0.0


def test_a_number_is_a_learning_rate_and_an_optimizer_may_have_none(caplog):
  assert _assemble().learning_rates == {"learning_rate": 1.0}
  assert _assemble(optimizer=fdl.Config(_constant_step)).learning_rates == {}
  assert not caplog.records


def _constant_step():
  return optimizers.sgdm(0.1)


def test_training_data_follow_the_seed_and_evaluation_data_do_not():
  fields = {"eval_data": {"validation": fdl.Config(ToyText, split="validation")}}
  one, other = _assemble(seed=0, **fields), _assemble(seed=1, **fields)
  differ = lambda x, y: any((x[key] != y[key]).any() for key in x)
  assert differ(one.batches[0], other.batches[0])
  assert not differ(one.eval_batches["validation"][0], other.eval_batches["validation"][0])


def test_assembling_allocates_no_parameter():
  assembly = _assemble()
  leaves = jax.tree.leaves(assembly.initializer.abstract)
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
  embeddings = 16 * (19 + 12)
  block = 4 * (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16) + 2 * 2 * 16
  assert assembly.initializer.num_params() == embeddings + block + 2 * 16


def test_positions_too_few_for_the_sequences_are_refused_with_both_numbers():
  config = toy_config()
  config.model.max_positions = 5
  with pytest.raises(UserError, match="max_positions=5 is shorter than the sequences of 12"):
    assemble(config, cache_dir="unused")


def test_the_config_that_is_assembled_stays_as_it_is():
  config = toy_config()
  assemble(config, cache_dir="unused")
  assert config == toy_config()
