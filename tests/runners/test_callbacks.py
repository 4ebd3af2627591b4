"""Callbacks stop a run for the reason they state, and survive a restart."""

import math

import jax.numpy as jnp
import pytest

from layers.errors import UserError
from runners.callbacks import (
  EarlyStopping,
  Profile,
  Run,
  StopOnNonFinite,
  restore_callbacks,
  save_callbacks,
)
from tests.runners.toy_run import files_under

LOSS = "eval/validation/loss"


def _feed(callback, losses, metric=LOSS):
  """Where `callback` stops a run with these evaluations, or None."""
  run = Run("workdir", len(losses))
  for loss in losses:
    run.step += 1
    callback.on_step(run, {})  # a step without evaluation counts for nothing
    callback.on_step(run, {metric: loss})
    if run.stop_reason:
      return run.step
  return None


@pytest.mark.parametrize(
  "fields, losses, stops_at",
  [
    ({"patience": 2}, [3, 2, 1, 0], None),
    ({"patience": 2}, [3, 2, 2.5, 2], 4),  # equal is no improvement
    ({"patience": 2}, [3, 4, 2, 4, 1, 4], None),  # an improvement starts anew
    ({"patience": 1}, [3, 3], 2),
    ({"patience": 2, "min_delta": 0.5}, [3, 2.9, 2.8], 3),
    ({"patience": 2, "min_delta": 0.5}, [3, 2.9, 2.4, 2.3], None),
    ({"patience": 2, "mode": "max"}, [3, 4, 2, 3.9], 4),
    ({"patience": 2, "mode": "max"}, [1, 2, 3, 4], None),
    ({"patience": 2}, [3, math.nan, math.nan], 3),  # NaN improves nothing
    ({"patience": 1, "metric": "train/loss"}, [3, 3, 3], None),
  ],
)
def test_early_stopping_waits_for_its_patience(fields, losses, stops_at):
  assert _feed(EarlyStopping(**fields), losses) == stops_at


def test_early_stopping_names_the_metric_as_its_reason():
  run, callback = Run("workdir", 9), EarlyStopping(patience=1)
  callback.on_step(run, {LOSS: 1.0})
  callback.on_step(run, {LOSS: 1.0})
  assert run.stop_reason == f"{LOSS} has not improved for 1 evaluations"


@pytest.mark.parametrize(
  "callback",
  [EarlyStopping(metric="eval/validaton/loss"), StopOnNonFinite(metrics=["eval/test/loss"])],
)
def test_a_metric_that_never_comes_is_refused_when_those_of_its_kind_do(callback):
  run = Run("workdir", 9)
  callback.on_step(run, {"train/loss": 1.0, "perf/mfu": 1.0})
  with pytest.raises(UserError, match="did you mean eval/validation/loss"):
    callback.on_step(run, {"train/loss": 1.0, LOSS: 1.0})


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("cut", range(6))
def test_early_stopping_counts_on_after_a_restart(cut, mode):
  losses = [3, 2, 4, 2, 2.5, 2.1]
  unbroken = _feed(EarlyStopping(patience=3, mode=mode), losses)
  first, second = EarlyStopping(patience=3, mode=mode), EarlyStopping(patience=3, mode=mode)
  if _feed(first, losses[:cut]) is None:
    second.restore(first.state())
    assert _feed(second, losses[cut:]) == unbroken - cut


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_fails_and_says_where_and_what_to_do(value):
  with pytest.raises(FloatingPointError, match=r"train/loss is .* at step 7.*learning rate"):
    StopOnNonFinite().on_step(Run("workdir", 9, step=7), {"train/loss": value})


def test_a_finite_loss_or_none_passes():
  run = Run("workdir", 9)
  StopOnNonFinite().on_step(
    run, {"train/loss": 3.0, "train/grad_norm": 1.0, "perf/mfu": math.nan}
  )
  StopOnNonFinite().on_step(run, {})
  assert run.stop_reason is None


def test_a_profile_writes_a_trace_of_its_steps_under_the_workdir(tmp_path):
  run, callback = Run(str(tmp_path), 9), Profile(start=2, num_steps=1)
  for _ in range(2):
    assert not (tmp_path / "profile").exists()
    callback.on_step(run, {})
  jnp.ones(8).sum().block_until_ready()
  callback.on_step(run, {})
  traces = [name for name in files_under(tmp_path / "profile") if name.endswith(".xplane.pb")]
  assert len(traces) == 1
  callback.on_end(run)  # it has ended already: nothing more happens


def test_a_run_that_ends_within_a_profile_still_writes_it(tmp_path):
  run, callback = Run(str(tmp_path), 9), Profile(start=1, num_steps=100)
  callback.on_step(run, {})
  callback.on_end(run)
  assert any(name.endswith(".xplane.pb") for name in files_under(tmp_path / "profile"))


def test_state_goes_back_to_the_callback_of_its_class_whatever_the_order():
  saved = save_callbacks([StopOnNonFinite(), _after_one_bad_evaluation()])
  again = EarlyStopping(patience=2)
  restore_callbacks([again, StopOnNonFinite()], saved)
  assert again.state() == _after_one_bad_evaluation().state()


def test_a_first_value_that_is_nan_is_no_best():
  stopping, run = EarlyStopping(patience=2), Run("workdir", 9)
  for value in (float("nan"), 3.0, 2.0, 1.0):
    stopping.on_step(run, {stopping.metric: value})
  assert run.stop_reason is None


def _after_one_bad_evaluation():
  stopping, run = EarlyStopping(patience=2), Run("workdir", 9)
  for value in (1.0, 2.0):
    stopping.on_step(run, {stopping.metric: value})
  return stopping
