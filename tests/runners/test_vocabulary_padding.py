"""A vocabulary is padded for the mesh, and what a checkpoint is good for is not affected."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from layers.errors import UserError
from runners.assembly import assemble
from runners.checkpoints.array_fitting import dividing
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.reading import restore_params
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import CheckpointWriter
from tests.runners import toy_run
from tests.runners.toy_state import abstract, toy_state


def _state(rows, value=1.0):
  """A toy state with a table of `rows` rows, the first 3 of which are real, and its moments."""
  table = jnp.zeros((rows, 2)).at[:3].set(value + jnp.arange(6.0).reshape(3, 2))
  state = toy_state(1)
  moments = [
    inner._replace(mu={"table": 2 * table}, nu={"table": 3 * table})
    if hasattr(inner, "mu")
    else inner
    for inner in state.opt_state[1]
  ]
  return state.replace(
    params={"table": table},
    opt_state=(state.opt_state[0], tuple(moments), *state.opt_state[2:]),
  )


def _save(folder, state, unpadded):
  writer = CheckpointWriter(folder, Checkpoints(), unpadded)
  writer.save(1, state, {}, {})
  writer.wait()
  writer.close()


@pytest.mark.parametrize("rows", [3, 4, 5, 8])
@pytest.mark.parametrize("saved", [3, 4, 6])
def test_padding_is_cut_or_added_for_parameters_and_moments_alike(tmp_path, saved, rows):
  unpadded = abstract(_state(3))
  _save(tmp_path, _state(saved), unpadded)
  restored, _ = restore_newest(tmp_path, abstract(_state(rows)), unpadded)
  toy_run.assert_bitwise_equal(restored, _state(rows))
  params = restore_params(tmp_path / "1", abstract(_state(rows)).params, unpadded.params)
  toy_run.assert_bitwise_equal(params, _state(rows).params)


def test_rows_that_are_no_padding_are_never_cut_or_added(tmp_path):
  _save(tmp_path, _state(4), abstract(_state(4)))  # here the fourth row is a real one
  with pytest.raises(UserError, match=r"params/table: \(4, 2\) there, \(3, 2\) here"):
    restore_newest(tmp_path, abstract(_state(3)), abstract(_state(3)))
  with pytest.raises(UserError, match=r"params/table: \(4, 2\) there, \(6, 2\) here"):
    restore_params(tmp_path / "1", abstract(_state(6)).params, abstract(_state(5)).params)


def test_a_dtype_that_the_model_has_no_more_is_changed_after_its_values_are_verified(tmp_path):
  _save(tmp_path, _state(3), None)
  wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), _state(3).params)
  params = restore_params(tmp_path / "1", wanted)
  np.testing.assert_array_equal(params["table"], _state(3).params["table"].astype(jnp.bfloat16))


def test_the_state_without_padding_has_the_vocabulary_for_rows():
  config = toy_run.toy_config()
  config.model.padded_vocab_size = 24
  config.model.tied_head = False
  initializer = assemble(config, cache_dir="unused").initializer
  shapes = lambda state: {
    jax.tree_util.keystr(path): x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(state)
  }
  padded, real = shapes(initializer.abstract), shapes(initializer.unpadded())
  num_real = sum(math.prod(shape) for name, shape in real.items() if name.startswith(".params"))
  assert initializer.num_params() == num_real
  differing = {name: (padded[name], real[name]) for name in real if padded[name] != real[name]}
  assert padded.keys() == real.keys()
  assert differing == {
    ".params['embedding']['table']": ((24, 16), (19, 16)),
    ".params['head']['projection']['kernel']": ((16, 24), (16, 19)),
  }


def test_what_the_mesh_does_not_divide_is_read_whole():
  mesh = AbstractMesh((2, 4, 3), ("tensor", "fsdp", "data"))
  sharding = NamedSharding(mesh, PartitionSpec(("tensor", "fsdp"), None, "data"))
  spec = lambda shape: dividing(sharding, shape).spec
  assert spec((16, 5, 6)) == PartitionSpec(("tensor", "fsdp"), None, "data")
  assert spec((12, 5, 6)) == PartitionSpec(None, None, "data")
  assert spec((8, 5, 7, 9)) == PartitionSpec(("tensor", "fsdp"), None, None, None)


@dataclasses.dataclass(frozen=True)
class Case:
  """A run of 8 steps, on one mesh for the first 4 and on another for the rest."""

  first: dict
  second: dict


CASES = {
  "to tensor": Case({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}),
  "from tensor": Case({"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}),
}

ON_EIGHT_DEVICES = """
import json, os, sys
import fiddle as fdl
from runners import optimizers
from runners.devices.meshes import MeshShape
from runners.training import train
from runners.metrics.writers import JsonLines
from tests.runners.toy_run import toy_config
def run(workdir, mesh, num_steps):
  config = toy_config(
    optimizer=fdl.Config(optimizers.adamw, learning_rate=1e-2),
    mesh=fdl.Config(MeshShape, **mesh), num_steps=num_steps, log_every=1,
    writers=[fdl.Config(JsonLines)])
  assert train(config, "toy.Run", workdir, accept_changes=["num_steps"]) == 0
"""


@pytest.mark.slow
def test_a_run_with_an_odd_vocabulary_goes_on_on_another_mesh(tmp_path, run_with_devices):
  runs = [f"run({str(tmp_path / 'unbroken')!r}, {{'data': 8}}, 8)"]
  for name, case in CASES.items():
    runs.append(f"run({str(tmp_path / name)!r}, {case.first!r}, 4)")
    runs.append(f"run({str(tmp_path / name)!r}, {case.second!r}, 8)")
  run_with_devices(8, "\n".join([ON_EIGHT_DEVICES, *runs, "print(0)"]))
  want = _losses(tmp_path / "unbroken")
  for name in CASES:
    got = _losses(tmp_path / name)
    assert [step for step, _ in got] == [step for step, _ in want] == list(range(1, 9)), name
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)


def _losses(workdir):
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [(row["step"], row["train/loss"]) for row in rows]
