"""What is restored is bitwise what was saved, and exactly what the policy says is kept."""

import contextlib
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.reading import restore_params
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import CheckpointWriter
from tests.runners.toy_run import assert_bitwise_equal
from tests.runners.toy_state import abstract, toy_state

LOSS = "eval/validation/loss"


@contextlib.contextmanager
def _writer(folder, **policy):
  writer = CheckpointWriter(folder, Checkpoints(**{"keep_latest": 1} | policy))
  try:
    yield writer
    writer.wait()
  finally:
    writer.close()


def _run(step):
  return {"data": {"batch": step}, "callbacks": [{}, {"best": None, "bad": step}]}


def _save(folder, scalars, **policy):
  """Saves each step of `scalars` in order, each waited for."""
  with _writer(folder, **policy) as writer:
    for step, values in scalars.items():
      writer.save(step, toy_state(step), _run(step), values)
      writer.wait()


def _steps(folder):
  return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def test_a_state_comes_back_bitwise_with_what_was_saved_beside_it(tmp_path):
  _save(tmp_path, {3: {}})
  state, run = restore_newest(tmp_path, abstract(toy_state(0)))
  assert_bitwise_equal(state, toy_state(3))
  assert run == _run(3)


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
  assert restore_newest(tmp_path / "nowhere", abstract(toy_state(0))) is None
  assert restore_newest(tmp_path, abstract(toy_state(0))) is None


def test_steps_are_due_at_multiples_and_never_without_a_cadence(tmp_path):
  with _writer(tmp_path / "a", every=3) as writer:
    assert [step for step in range(1, 10) if writer.due(step)] == [3, 6, 9]
  with _writer(tmp_path / "b", every=None) as writer:
    assert not any(writer.due(step) for step in range(1, 10))


LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0, 5: 4.0}


@pytest.mark.parametrize(
  "policy, measured, kept",
  [
    ({}, LOSSES, [5]),
    ({"keep_latest": 2}, LOSSES, [4, 5]),
    ({"keep_latest": 9}, LOSSES, [1, 2, 3, 4, 5]),
    ({"keep_every": 2}, LOSSES, [2, 4, 5]),
    ({"keep_best": 1}, LOSSES, [2, 5]),
    ({"keep_best": 2}, LOSSES, [2, 3, 5]),
    ({"keep_best": 1, "mode": "max"}, LOSSES, [4, 5]),
    ({"keep_best": 2, "mode": "max"}, LOSSES, [4, 5]),
    ({"keep_best": 1, "keep_every": 3, "keep_latest": 2}, LOSSES, [2, 3, 4, 5]),
    ({"keep_best": 1}, {1: 2.0, 3: 1.0}, [3, 5]),  # saved without evaluation: never best
    ({"keep_best": 2}, {1: 2.0}, [1, 5]),
    ({"keep_best": 1}, {}, [5]),
  ],
)
def test_exactly_what_the_policy_says_is_kept(tmp_path, policy, measured, kept):
  scalars = {step: {LOSS: measured[step]} if step in measured else {} for step in LOSSES}
  _save(tmp_path, scalars, **policy)
  assert _steps(tmp_path) == kept


def test_the_policys_own_metric_decides_and_others_do_not(tmp_path):
  other = "eval/other/loss"
  scalars = {step: {LOSS: loss, other: -loss} for step, loss in LOSSES.items()}
  _save(tmp_path, scalars, keep_best=1, metric=other)
  assert _steps(tmp_path) == [4, 5]


def test_the_best_of_an_earlier_start_is_still_the_best(tmp_path):
  _save(tmp_path, {1: {LOSS: 1.0}, 2: {LOSS: 9.0}}, keep_best=1)
  _save(tmp_path, {3: {LOSS: 5.0}, 4: {LOSS: 7.0}}, keep_best=1)
  assert _steps(tmp_path) == [1, 4]


def test_another_metric_than_that_of_an_earlier_start_can_decide(tmp_path):
  _save(tmp_path, {1: {LOSS: 1.0}, 2: {LOSS: 2.0}}, keep_best=1)
  scalars = {3: {"other": 3.0}, 4: {"other": 4.0}}
  _save(tmp_path, scalars, keep_best=1, metric="other")
  assert _steps(tmp_path) == [3, 4]


def test_a_loss_that_is_not_a_number_is_never_the_best(tmp_path):
  nan = float("nan")
  scalars = {1: {LOSS: nan}, 2: {LOSS: 2.0}, 3: {LOSS: nan}, 4: {LOSS: 3.0}, 5: {LOSS: nan}}
  _save(tmp_path / "min", scalars, keep_best=1)
  assert _steps(tmp_path / "min") == [2, 5]
  _save(tmp_path / "max", scalars, keep_best=1, mode="max")
  assert _steps(tmp_path / "max") == [4, 5]


@pytest.mark.parametrize("step", [1, 2])
def test_a_save_at_a_step_that_is_there_or_older_is_an_error(tmp_path, step):
  with _writer(tmp_path, keep_latest=9) as writer:
    writer.save(2, toy_state(2), _run(2), {})
    with pytest.raises(RuntimeError, match=f"step {step} was refused.* holds step 2 already"):
      writer.save(step, toy_state(7), _run(7), {})
  state, _ = restore_newest(tmp_path, abstract(toy_state(0)))
  assert_bitwise_equal(state, toy_state(2))


def test_donated_steps_right_after_a_save_do_not_reach_what_is_saved(tmp_path):
  # 32 MB take long enough to write for the steps to be there first. Copies: no buffer twice.
  state = toy_state(0).replace(params={"kernel": jnp.zeros((8, 2**20))})
  state = jax.tree.map(jnp.copy, state)
  shapes = abstract(state)
  step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  saved = {}
  with _writer(tmp_path, keep_latest=9) as writer:
    for n in range(1, 4):
      state = step(state)
      saved[n] = int(state.step)
      writer.save(n, state, _run(n), {})
      for _ in range(10):
        state = step(state)
      jax.block_until_ready(state)
  for n, value in saved.items():
    params = restore_params(tmp_path / str(n), shapes.params)
    np.testing.assert_array_equal(np.unique(params["kernel"]), [value])


# Where nothing can be written


def _fails_to_save(folder, fail, caplog):
  """The message of a second save, of 4 MB, after `fail`; 1 is saved before."""
  states = [toy_state(n).replace(params={"kernel": _noise(n)}) for n in (1, 2)]
  with contextlib.ExitStack() as stack:
    writer = stack.enter_context(_writer(folder, keep_latest=9))
    writer.save(1, states[0], _run(1), {})
    writer.wait()
    stack.enter_context(fail())
    with pytest.raises(UserError) as raised:
      writer.save(2, states[1], _run(2), {})
      writer.wait()
  assert not caplog.records  # the error says it all
  return str(raised.value)


def _noise(n):
  return jax.random.normal(jax.random.key(n), (2**20,))


@contextlib.contextmanager
def _no_room():
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_without_room_a_save_fails_in_one_line_and_the_older_checkpoint_is_intact(
  tmp_path, caplog
):
  message = _fails_to_save(tmp_path / "run", _no_room, caplog)
  assert "File too large" in message and "the run continues from step 1" in message
  assert "\n" not in message
  shapes = abstract(toy_state(0).replace(params={"kernel": _noise(1)}))
  state, _ = restore_newest(tmp_path / "run", shapes)
  assert_bitwise_equal(state, toy_state(1).replace(params={"kernel": _noise(1)}))
  assert _steps(tmp_path / "run") == [1]


def test_a_folder_that_cannot_be_written_in_is_an_error_at_once(tmp_path, caplog):
  @contextlib.contextmanager
  def no_folder():
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").write_text("")
    yield

  message = _fails_to_save(tmp_path / "run", no_folder, caplog)
  assert message.startswith(f"cannot save a checkpoint in {tmp_path / 'run'}: Not a directory")


# Reading it otherwise


def test_parameters_are_read_without_the_rest_of_the_state(tmp_path):
  _save(tmp_path, {4: {}})
  params = restore_params(tmp_path / "4", abstract(toy_state(0)).params)
  assert_bitwise_equal(params, toy_state(4).params)


def test_what_is_saved_beside_the_state_is_plain_json(tmp_path):
  _save(tmp_path, {4: {LOSS: 1.5}})
  assert json.loads((tmp_path / "4" / "run" / "metadata").read_text()) == _run(4)
  assert json.loads((tmp_path / "4" / "metrics" / "metrics").read_text()) == {LOSS: 1.5}


@pytest.mark.slow
def test_a_state_saved_on_eight_devices_is_restored_on_one(tmp_path, run_with_devices):
  code = f"""
import jax, json
from jax.sharding import NamedSharding, PartitionSpec
from runners.checkpoints.writing import CheckpointWriter
from runners.devices.meshes import MeshShape
from runners.checkpoints.retention import Checkpoints
from tests.runners.toy_state import toy_state
mesh = MeshShape(data=1, fsdp=8).build()
lay = lambda x: NamedSharding(mesh, PartitionSpec("fsdp" if x.shape[:1] == (8,) else None))
state = toy_state(5)
state = jax.device_put(state, jax.tree.map(lambda x: lay(x) if x.ndim else
                                           NamedSharding(mesh, PartitionSpec()), state))
writer = CheckpointWriter({str(tmp_path)!r}, Checkpoints())
writer.save(5, state, {{}}, {{}})
writer.wait()
writer.close()
print(json.dumps(len(state.params["kernel"].addressable_shards)))
"""
  assert run_with_devices(8, code) == 8
  state, _ = restore_newest(tmp_path, abstract(toy_state(0)))
  assert_bitwise_equal(state, toy_state(5))
  assert state.params["kernel"].sharding == toy_state(0).params["kernel"].sharding
