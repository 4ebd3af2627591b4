"""Law 7: the whole set, weighted right, at any batch size, and training never notices."""

import json

import fiddle as fdl
import jax
import numpy as np
import pytest

from runners import optimizers, schedules
from runners.checkpoints.reading import restore_params
from runners.checkpoints.retention import Checkpoints
from runners.evaluation import Evaluator
from runners.metrics.writers import JsonLines
from runners.train_step import EvalSums, make_eval_step
from runners.training import train
from tasks.language_modeling import NextToken
from tests.runners import toy_run

SEQUENCE_LENGTH = 12


class CountedNextToken(NextToken):
  """Reports how much was summed, too."""

  def summary(self, collection):
    return super().summary(collection) | {"weight": collection.loss.count}


def _validation(**fields):
  return fdl.Config(toy_run.ToyText, split="validation", num_documents=9, **fields)


def _evaluate(params=None, **fields):
  """(scalars of the evaluation set, the parameters evaluated)."""
  config = toy_run.toy_config(
    objective=fdl.Config(CountedNextToken), sequence_length=SEQUENCE_LENGTH, **fields
  )
  assembly, state = toy_run.begin(config)
  params = state.params if params is None else params
  return assembly.evaluator()(params), params


@pytest.fixture(scope="module")
def whole():
  """One batch size, as the reference for the others."""
  return _evaluate(batch_size=8, eval_data={"validation": _validation()})


def test_the_whole_set_counts_and_nothing_twice(whole):
  scalars, _ = whole
  rows = fdl.build(_validation()).packed_rows(SEQUENCE_LENGTH)
  assert rows.num_pairs % SEQUENCE_LENGTH, "the last row is to be ragged"
  assert scalars["eval/validation/weight"] == rows.num_pairs


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_number_is_the_same_at_every_batch_size(whole, batch_size):
  want, params = whole
  got, _ = _evaluate(params, batch_size=batch_size, eval_data={"validation": _validation()})
  assert got == pytest.approx(want, rel=1e-6)
  assert got["eval/validation/weight"] == want["eval/validation/weight"]


@pytest.mark.parametrize("microbatch_size", [1, 4])
def test_the_number_is_the_same_in_microbatches(whole, microbatch_size):
  want, params = whole
  data = {"validation": _validation()}
  got, _ = _evaluate(params, batch_size=8, microbatch_size=microbatch_size, eval_data=data)
  assert got == pytest.approx(want, rel=1e-6)


def test_the_number_is_the_weighted_mean_over_all_tokens(whole):
  scalars, params = whole
  config = toy_run.toy_config(sequence_length=SEQUENCE_LENGTH)
  assembly, _ = toy_run.begin(config)
  data = fdl.build(_validation())
  rows = data.open(sequence_length=SEQUENCE_LENGTH, cache_dir="", batch_size=1, seed=None)
  trainer = assembly.trainer
  step = jax.jit(
    make_eval_step(
      trainer.model,
      trainer.objective,
      num_microbatches=1,
      mesh=assembly.mesh,
      rules=trainer.sharding,
    )
  )
  nll, weight = 0.0, 0.0
  for row in rows:
    loss = step(params, {}, row).objective.loss
    nll, weight = nll + float(loss.total), weight + float(loss.count)
  assert scalars["eval/validation/loss"] == pytest.approx(nll / weight, rel=1e-6)


def test_every_set_has_its_own_numbers_and_num_batches_limits_one(whole):
  want, params = whole
  sets = {"short": _validation(num_batches=1), "validation": _validation()}
  scalars, _ = _evaluate(params, batch_size=2, eval_data=sets)
  assert scalars["eval/short/weight"] == 2 * SEQUENCE_LENGTH
  assert scalars["eval/validation/loss"] == pytest.approx(
    want["eval/validation/loss"], rel=1e-6
  )
  assert scalars["eval/short/loss"] != scalars["eval/validation/loss"]


def test_no_evaluation_data_give_no_scalars():
  def forbidden(params, variables, batch):
    raise AssertionError("nothing is to be evaluated")

  assert Evaluator(forbidden, NextToken(), {}, None)(params=None) == {}


def test_sums_merge_in_float64_on_the_host():
  class Batches:
    num_batches = 3
    values = (2.0**24, 1.0, 1.0)  # float32 would lose the ones

    def __getitem__(self, n):
      return {"value": np.float32([self.values[n]])}

  objective = NextToken()

  def step(params, variables, batch):
    metrics = objective.empty_metrics()
    loss = metrics.loss.replace(total=batch["value"][0], count=np.float32(1))
    return EvalSums(metrics.replace(loss=loss, bits_per_byte=loss, z_loss=loss), {})

  evaluator = Evaluator(step, objective, {"x": Batches()}, jax.devices()[0])
  assert evaluator(None)["eval/x/loss"] * 3 == 2.0**24 + 2


def _train(workdir, **fields):
  """The rows, without timings, of a run with dropout and a schedule that saves on its way."""
  config = toy_run.toy_config(
    dropout_rate=0.2,
    num_steps=5,
    log_every=1,
    optimizer=fdl.Config(
      optimizers.adamw,
      learning_rate=fdl.Config(schedules.warmup_cosine, peak=1e-2, warmup=2),
    ),
    checkpoints=fdl.Config(Checkpoints, every=2, keep_latest=9),
    writers=[fdl.Config(JsonLines)],
    **fields,
  )
  assert train(config, "toy.Run", str(workdir), cache_dir=str(workdir / "cache")) == 0
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def _saved_params(workdir, step):
  assembly, _ = toy_run.begin(toy_run.toy_config())
  folder = (workdir / "checkpoints" / str(step)).absolute()
  return restore_params(folder, assembly.initializer.abstract.params)


@pytest.fixture(scope="module")
def unevaluated(tmp_path_factory):
  """(workdir, rows) of a run without evaluation."""
  workdir = tmp_path_factory.mktemp("unevaluated")
  return workdir, _train(workdir)


@pytest.mark.slow
def test_training_with_evaluation_is_bitwise_training_without(unevaluated, tmp_path):
  workdir, want = unevaluated
  sets = {"validation": _validation(), "other": _validation(num_batches=2)}
  rows = _train(tmp_path, eval_data=sets, eval_every=1)
  assert all({"eval/validation/loss", "eval/other/loss"} <= row.keys() for row in rows)
  got = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
  assert got == want
  assert len({row["train/loss"] for row in want}) == 5
  for step in (2, 5):
    toy_run.assert_bitwise_equal(_saved_params(tmp_path, step), _saved_params(workdir, step))


@pytest.mark.slow
def test_the_rate_that_is_logged_is_the_one_that_made_the_step(unevaluated):
  rates = [row["train/learning_rate"] for row in unevaluated[1]]
  schedule = schedules.warmup_cosine(1e-2, warmup=2, num_steps=5)
  assert rates == pytest.approx([float(schedule(step)) for step in range(5)])
