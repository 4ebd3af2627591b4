"""Law 2, mesh: the first parameters are bitwise the same on every mesh, and the steps agree."""

import jax
import numpy as np
import pytest

from layers.errors import UserError
from runners.assembly import assemble
from runners.meshes import AXES, DEFAULT_RULES
from runners.train_state import Initializer
from tests.runners import toy_run
from tests.runners.mesh_report import mesh_config, report

MESHES = {
  "data8": {"data": 8},
  "fsdp8": {"data": 1, "fsdp": 8},
  "tensor2-fsdp4": {"data": 1, "fsdp": 4, "tensor": 2},
  "data2-fsdp2-tensor2": {"data": 2, "fsdp": 2, "tensor": 2},
}

ON_EIGHT_DEVICES = f"""
import json
from tests.runners.mesh_report import report
print(json.dumps({{name: report(mesh) for name, mesh in {MESHES!r}.items()}}))
"""


@pytest.mark.slow
def test_every_mesh_begins_alike_bitwise_and_its_steps_agree_to_1e_5(run_with_devices):
  alone = report({})
  assert len(set(alone["losses"])) == len(alone["losses"])
  for name, got in run_with_devices(8, ON_EIGHT_DEVICES).items():
    assert got["params"] == alone["params"], name
    np.testing.assert_allclose(got["losses"], alone["losses"], rtol=1e-5, err_msg=name)
    # 19 ids over a tensor axis of 2: one row of padding, and it is zero.
    assert got["padding"] == ([[0.0] * 16] if "tensor" in MESHES[name] else []), name
    layout = got["layout"]
    assert layout["params"] == layout["mu"] == layout["nu"], name
    split_by = {axis for axis in AXES if f"'{axis}'" in " ".join(layout["params"].values())}
    assert MESHES[name].keys() - {"data"} <= split_by <= {"fsdp", "tensor"}, name


def _initializer(config, **axes):
  """Of a mesh that is only described: nothing is allocated."""
  assembly = assemble(config, cache_dir="unused")
  mesh = jax.sharding.AbstractMesh(tuple(axes.get(axis, 1) for axis in AXES), AXES)
  trainer = assembly.trainer
  return Initializer(
    trainer.model,
    trainer.objective,
    trainer.optimizer,
    assembly.batches[0],
    seed=0,
    mesh=mesh,
    rules=trainer.sharding,
  )


def test_a_dimension_that_the_mesh_does_not_divide_is_refused_with_the_numbers():
  with pytest.raises(UserError, match=r"mesh axis fsdp=3 does not divide a dimension of 16 of"):
    _initializer(toy_run.toy_config(), fsdp=3)
  config = toy_run.toy_config()
  config.model.padded_vocab_size = 24
  with pytest.raises(UserError, match=r"tensor=8 does not divide .* of 4 .*stack/layers/0/"):
    _initializer(config, tensor=8)


def test_a_rule_can_leave_whole_what_the_mesh_does_not_divide():
  rules = tuple(rule for rule in DEFAULT_RULES if rule[0] != "embed")
  state = _initializer(toy_run.toy_config(sharding=rules), fsdp=3).shardings
  assert not any("fsdp" in str(x.spec) for x in jax.tree.leaves(state.params))


def test_the_first_state_is_a_function_of_the_seed():
  states = [toy_run.begin(toy_run.toy_config(seed=seed))[1] for seed in (0, 0, 1)]
  toy_run.assert_bitwise_equal(states[0], states[1])
  kernels = [state.params["embedding"]["table"] for state in states]
  assert (np.asarray(kernels[0]) != np.asarray(kernels[2])).all()
  assert (np.asarray(states[0].key) != np.asarray(states[2].key)).any()


def test_scanned_layers_are_laid_out_behind_an_axis_of_their_own():
  config = mesh_config({})
  config.model.padded_vocab_size = 20
  shardings = _initializer(config, fsdp=2, tensor=2).shardings
  kernel = shardings.params["stack"]["layers"]["attention"]["query"]["kernel"]
  assert kernel.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor", None)
