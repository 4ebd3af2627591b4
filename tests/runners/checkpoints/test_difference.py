"""Two checkpoints are compared array by array, without the model's code."""

import shutil

import jax.numpy as jnp
import pytest

from experiments.command_line import main
from layers.errors import UserError
from runners.checkpoints.difference import difference
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import CheckpointWriter
from tests.runners.damage import as_saved_by_older_versions, change_a_value_of_an_array
from tests.runners.toy_state import toy_state


def _save(run, params, step=1):
  writer = CheckpointWriter(run / "checkpoints", Checkpoints(keep_latest=9))
  with as_saved_by_older_versions():
    writer.save(step, toy_state(1).replace(params=params), {}, {})
  writer.wait()
  writer.close()
  return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  a = {
    "equal": jnp.array([1.0, jnp.nan]),
    "little": jnp.array([3.0, 4.0]),
    "much": jnp.array([[1.0], [0.0]]),
    "half": jnp.array([1.0, 2.0], jnp.bfloat16),
    "shape": jnp.zeros((2, 3)),
    "dtype": jnp.zeros(2),
    "gone": jnp.zeros(5),
  }
  b = {
    **a,
    "little": jnp.array([3.0, 4.5]),
    "much": jnp.array([[-1.0], [7.0]]),
    "half": jnp.array([1.0, 3.0], jnp.bfloat16),
    "shape": jnp.zeros((3, 2)),
    "dtype": jnp.zeros(2, jnp.int32),
    "new": jnp.zeros(()),
  }
  del b["gone"]
  return _save(folder / "a", a), _save(folder / "b", b)


def _lines(a, b):
  return difference(str(a), str(b)).splitlines()


def test_arrays_of_one_only_and_of_other_shapes_and_dtypes_are_named(runs):
  lines = _lines(*runs)
  assert "only in A: params/gone  float32 5" in lines
  assert "only in B: params/new  float32 scalar" in lines
  assert "params/shape: float32 2x3 in A, float32 3x2 in B" in lines
  assert "params/dtype: float32 2 in A, int32 2 in B" in lines


def test_differences_are_measured_and_sorted_and_equal_arrays_counted(runs):
  lines = _lines(*runs)
  start = next(n for n, line in enumerate(lines) if line.startswith("array "))
  rows = [line.split() for line in lines[start + 1 : start + 4]]
  assert [row[0] for row in rows] == ["params/much", "params/half", "params/little"]
  assert [float(row[1]) for row in rows] == [7.28, 0.447, 0.1]  # |A-B| / |A|
  assert [float(row[2]) for row in rows] == [7.0, 1.0, 0.5]  # max |A-B|
  equal = len(lines) - 1
  assert lines[equal] == "17 of 22 arrays that both have are equal"


def test_a_checkpoint_differs_in_nothing_from_itself(runs, capsys):
  run, _ = runs
  step = run / "checkpoints" / "1"
  assert main(["runner", "ckpt", "diff", str(run), str(step)]) == 0
  *heads, last = capsys.readouterr().out.splitlines()
  assert heads == [f"A  {step}", f"B  {step}"] and last.startswith("23 of 23 arrays")


def test_a_damaged_checkpoint_is_refused_by_name(runs, tmp_path):
  (tmp_path / "checkpoints" / "7").mkdir(parents=True)
  with pytest.raises(UserError, match=r"checkpoints/7 is damaged: its folder is empty"):
    difference(str(runs[0]), str(tmp_path))


def test_what_is_damaged_is_not_compared(runs, tmp_path):
  damaged = shutil.copytree(runs[0], tmp_path / "damaged")
  change_a_value_of_an_array(damaged / "checkpoints" / "1")
  with pytest.raises(UserError, match="1 is damaged: not what was saved: params/"):
    difference(str(runs[0]), str(damaged))
