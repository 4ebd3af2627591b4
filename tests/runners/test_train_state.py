"""Law 2, mesh: the first parameters are bitwise the same on every mesh, and the steps agree."""

import jax
import numpy as np
import pytest

from runners.blueprint import draw, lay_ground
from runners.devices.meshes import AXES, MeshShape
from tests.runners import toy_run
from tests.runners.mesh_report import mesh_config, report

MESHES = {
  "data2-fsdp2-tensor2": {"data": 2, "fsdp": 2, "tensor": 2},
  "sequence2-data2-of-2-slices": {"data": 2, "sequence": 2, "dcn_data": 2},
  "expert4-fsdp2": {"data": 1, "fsdp": 2, "expert": 4},  # without experts: copies
}

ON_EIGHT_DEVICES = f"""
import json
from tests.runners.mesh_report import mesh_config, report
print(json.dumps({{name: report(mesh_config(mesh)) for name, mesh in {MESHES!r}.items()}}))
"""


@pytest.mark.slow
def test_every_mesh_begins_alike_bitwise_and_its_steps_agree_to_1e_5(run_with_devices):
  alone = report(mesh_config({}))
  assert len(set(alone["losses"])) == len(alone["losses"])
  for name, got in run_with_devices(8, ON_EIGHT_DEVICES).items():
    assert got["params"] == alone["params"], name
    np.testing.assert_allclose(got["losses"], alone["losses"], rtol=1e-5, err_msg=name)
    # 19 ids over a tensor axis of 2: one row of padding, and it is zero.
    assert got["num_padding"] == (1 if "tensor" in MESHES[name] else 0), name
    assert got["padding_is_zero"], name
    layout = got["layout"]
    assert layout["params"] == layout["mu"] == layout["nu"], name
    split_by = {axis for axis in AXES if f"'{axis}'" in " ".join(layout["params"].values())}
    assert MESHES[name].keys() & {"fsdp", "tensor"} <= split_by <= {"fsdp", "tensor"}, name


def _initializer(config, **axes):
  """Of a mesh that is only described: nothing is allocated."""
  mesh = MeshShape(**{"data": 1} | axes)
  mesh = mesh.describe(mesh.num_devices(1))
  return draw(lay_ground(config), mesh).initializer


def test_the_first_state_is_a_function_of_the_seed():
  states = [toy_run.begin(toy_run.toy_config(seed=seed))[1] for seed in (0, 0, 1)]
  toy_run.assert_bitwise_equal(states[0], states[1])
  kernels = [state.params["embedding"]["table"] for state in states]
  assert (np.asarray(kernels[0]) != np.asarray(kernels[2])).all()
  assert (np.asarray(states[0].key) != np.asarray(states[2].key)).any()


def test_scanned_layers_are_laid_out_behind_an_axis_of_their_own():
  config = mesh_config({})
  shardings = _initializer(config, fsdp=2, tensor=2).shardings
  kernel = shardings.params["stack"]["layers"]["attention"]["query"]["kernel"]
  assert kernel.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor", None)


@pytest.mark.slow
def test_rows_that_pad_the_vocabulary_influence_nothing():
  config = mesh_config({})
  config.model.padded_vocab_size = 64
  plain, padded = report(mesh_config({})), report(config)
  assert (plain["num_padding"], padded["num_padding"]) == (0, 64 - 19)
  assert padded["params"] == plain["params"]
  assert padded["padding_is_zero"]  # weight decay and the moments of Adam leave it so
  np.testing.assert_allclose(padded["losses"], plain["losses"], rtol=1e-6)
