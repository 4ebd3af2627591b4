"""What is not finite never becomes a checkpoint, and never costs one that is."""

import os
import signal
from typing import NamedTuple

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.command_line import main
from layers.errors import Diverged, UserError
from runners import optimizers
from runners.callbacks import Callback, Run
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.finiteness import count_non_finite, non_finite
from runners.checkpoints.listing import saved_steps, steps
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import CheckpointWriter
from runners.interchange.imported_run import write_run
from runners.interchange.init_from import InitFrom
from runners.training import train
from tests.runners.damage import as_saved_by_older_versions
from tests.runners.toy_run import toy_config
from tests.runners.toy_state import abstract, toy_state

LOSS = "eval/validation/loss"


class Terminate(Callback):
  """A signal that arrives within the third step."""

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    if run.step == 3:
      os.kill(os.getpid(), signal.SIGTERM)


class LeastNorm(NamedTuple):
  best: jax.Array


def keep_least_norm() -> optax.GradientTransformation:
  """Gradient descent that remembers the least norm of a gradient; at first it is infinite."""

  def update(updates, state, params=None):
    best = jnp.minimum(state.best, optax.tree.norm(updates))
    return jax.tree.map(lambda g: -0.1 * g, updates), LeastNorm(best)

  return optax.GradientTransformation(lambda params: LeastNorm(jnp.array(jnp.inf)), update)


def _diverging(at):
  """Finite gradients, and parameters that are infinite after step `at`: by their decay."""
  rate = fdl.Config(
    optax.piecewise_constant_schedule, init_value=1e-3, boundaries_and_scales={at - 1: 1e35}
  )
  return fdl.Config(optimizers.sgdm, learning_rate=rate, momentum=0.0, weight_decay=1e8)


def _train(folder, at, *, every=1, num_steps=6, **fields):
  fields = {"callbacks": [], "log_every": 1} | fields
  checkpoints = fdl.Config(Checkpoints, every=every, keep_latest=1)
  config = toy_config(
    optimizer=_diverging(at), checkpoints=checkpoints, num_steps=num_steps, **fields
  )
  return train(config, "toy.Run", str(folder))


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_state_that_an_update_made_infinite_is_not_saved_and_the_one_before_is_kept(
  tmp_path, log_every
):
  with pytest.raises(Diverged) as raised:
    _train(tmp_path, 3, log_every=log_every)
  message = str(raised.value)
  assert (
    message.startswith("step 3 is not saved: ") and "arrays are not finite (params/" in message
  )
  assert message.endswith("The checkpoint of step 2 is intact") and "\n" not in message
  assert steps(str(tmp_path)) == [2]


def test_where_nothing_was_saved_before_that_is_said(tmp_path):
  with pytest.raises(Diverged, match="step 1 is not saved: .* No checkpoint was saved$"):
    _train(tmp_path, 1)
  assert steps(str(tmp_path)) == []


def test_neither_the_last_step_nor_a_later_one_is_saved(tmp_path):
  with pytest.raises(Diverged, match="step 3 is not saved"):
    _train(tmp_path / "last", 3, every=None, num_steps=3)
  with pytest.raises(Diverged, match="step 4 is not saved.*step 2 is intact"):
    _train(tmp_path / "later", 3, every=2)
  assert steps(str(tmp_path / "last")) == [] and steps(str(tmp_path / "later")) == [2]


def test_a_signal_does_not_save_it_either_and_the_run_ends_as_diverged(tmp_path):
  with pytest.raises(Diverged, match="step 3 is not saved"):
    _train(tmp_path, 3, every=2, callbacks=[fdl.Config(Terminate)])
  assert steps(str(tmp_path)) == [2]


# What an older version saved


def _save(folder, *numbers, infinite=None):
  """Steps with the metric; in `infinite` one parameter and one moment are not finite."""
  writer = CheckpointWriter(folder, Checkpoints(keep_latest=9))
  for number in numbers:
    state = toy_state(number)
    if number == infinite:
      params = {**state.params, "kernel": state.params["kernel"].at[0, 0].set(jnp.nan)}
      state = state.replace(params=params)
    with as_saved_by_older_versions():
      writer.save(number, state, {"data": {"batch": number}, "callbacks": []}, {})
    writer.wait()
  writer.close()


def test_a_checkpoint_that_is_not_finite_is_said_set_aside_and_passed_over(tmp_path, caplog):
  _save(tmp_path, 1, 2, infinite=2)
  state, _ = restore_newest(tmp_path, abstract(toy_state(0)))
  assert int(state.step) == 1
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2.unreadable"]


def test_where_none_is_finite_the_run_is_refused_and_nothing_is_touched(tmp_path):
  _save(tmp_path, 2, infinite=2)
  with pytest.raises(UserError, match=r"step 2: 1 of its 18 .* not finite \(params/kernel\)"):
    restore_newest(tmp_path, abstract(toy_state(0)))
  assert saved_steps(tmp_path) == [2]


def test_verify_names_what_is_not_finite_and_counts_it(tmp_path, capsys):
  _save(tmp_path / "checkpoints", 1, 2, infinite=2)
  assert main(["runner", "ckpt", "verify", str(tmp_path)]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[1] == "step 2  not finite: params/kernel (1 of 16 values)"
  assert "intact" in lines[0]


@pytest.mark.parametrize("everything", [False, True])
def test_no_run_begins_with_what_is_not_finite(tmp_path, everything):
  config = toy_config(num_steps=1, optimizer=_diverging(1))
  with as_saved_by_older_versions():
    train(config, "toy.Run", str(tmp_path / "a"))
  source = fdl.Config(InitFrom, path=str(tmp_path / "a"), everything=everything)
  with pytest.raises(UserError, match="init_from: .* not finite .*params/"):
    again = toy_config(num_steps=2, init_from=source, optimizer=_diverging(1))
    train(again, "toy.Run", str(tmp_path / "b"))
  assert not (tmp_path / "b" / "config.json").exists()


def test_parameters_that_are_not_finite_are_not_imported(tmp_path):
  shapes = {"kernel": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}
  values = np.array([1, 2, np.inf]).astype(jnp.bfloat16)
  with pytest.raises(UserError, match=r"theirs: 1 parameters are not finite \(kernel\)"):
    write_run(tmp_path, toy_config(), "toy", shapes, lambda name: values, source="theirs")
  assert not (tmp_path / "config.json").exists() and steps(str(tmp_path)) == []


# What is right


def test_a_scalar_that_its_optimizer_began_as_infinite_may_be_saved_so(tmp_path, capsys):
  fields = {"optimizer": fdl.Config(keep_least_norm), "num_steps": 2}
  every = fdl.Config(Checkpoints, every=1)
  config = toy_config(checkpoints=every, train_data=toy_config().train_data, **fields)
  assert train(config, "toy.Run", str(tmp_path / "a")) == 0
  # Before the first step it is infinite, and a checkpoint may have it so.
  writer = CheckpointWriter(
    tmp_path / "checkpoints", Checkpoints(), infinite=lambda: {"opt_state/best"}
  )
  state = toy_state(1).replace(opt_state=LeastNorm(jnp.array(jnp.inf)))
  writer.save(1, state, {}, {})
  with pytest.raises(Diverged, match=r"\(opt_state/best\)"):
    writer.save(2, state.replace(opt_state=LeastNorm(jnp.array(jnp.nan))), {}, {})
  writer.close()
  assert main(["runner", "ckpt", "verify", str(tmp_path)]) == 0
  restored, _ = restore_newest(tmp_path / "checkpoints", abstract(state))
  assert np.isinf(restored.opt_state.best)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path, value, mode):
  writer = CheckpointWriter(tmp_path, Checkpoints(keep_latest=1, keep_best=1, mode=mode))
  for step, loss in enumerate([2.0, value, 3.0 if mode == "min" else 1.0, value], 1):
    writer.save(step, toy_state(step), {}, {LOSS: loss})
    writer.wait()
  writer.close()
  assert saved_steps(tmp_path) == [1, 4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", "complex64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_of_many_is_found_in_every_dtype(dtype, value):
  x = np.ones((3, 300_001)).astype(jnp.dtype(dtype))
  assert non_finite({"x": x}) == ([], []) and count_non_finite(x) == 0
  x[1, 299_999] = value
  assert non_finite({"x": x}) == (["x"], []) and count_non_finite(x) == 1


def test_whole_numbers_are_finite():
  assert non_finite({"n": np.arange(3), "b": np.array(True)}) == ([], [])
  assert count_non_finite(np.arange(3)) == 0
