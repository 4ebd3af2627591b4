"""A run that cannot fit its devices is refused with both numbers before it allocates."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from layers.errors import UserError
from runners.assembly import assemble
from runners.devices import memory
from runners.devices.memory import check_memory, device_bytes
from runners.train_state import TrainState
from tests.runners.toy_run import toy_config

MESH = Mesh(jax.devices()[:1], ("fsdp",))


def state(num_params: int) -> TrainState:
  """So many float32 parameters, with two moments of each."""
  here = NamedSharding(MESH, PartitionSpec())
  array = jax.ShapeDtypeStruct((num_params,), jnp.float32, sharding=here)
  return TrainState(step=(), params=array, opt_state=(array, array), metrics=(), key=())


def test_what_fits_passes_to_the_last_byte(monkeypatch):
  monkeypatch.setattr(memory, "device_bytes", lambda mesh: 16_000)
  check_memory(state(1000), MESH)
  with pytest.raises(UserError):
    check_memory(state(1001), MESH)


def test_what_does_not_fit_is_refused_with_both_numbers_and_the_devices_it_takes(monkeypatch):
  monkeypatch.setattr(memory, "device_bytes", lambda mesh: 2**30)
  with pytest.raises(UserError) as error:
    check_memory(state(10 * 2**28), MESH)
  assert "2,684,354,560 parameters" in str(error.value)
  assert "take 40.0 GiB on each of 1 device(s), which has 1.0 GiB" in str(error.value)
  assert "over 45 such devices or more (mesh.fsdp" in str(error.value)


def test_a_device_that_does_not_say_what_it_has_is_believed(monkeypatch):
  monkeypatch.setattr(memory, "device_bytes", lambda mesh: None)
  check_memory(state(10**12), MESH)


def test_a_run_is_refused_before_its_data_are_read(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, "device_bytes", lambda mesh: 1)
  with pytest.raises(UserError, match="GiB on each of"):
    assemble(toy_config(num_steps=1), str(tmp_path / "cache"))
  assert not (tmp_path / "cache").exists()


def test_a_container_that_has_less_than_the_machine_is_what_counts(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, "_CONTAINER_LIMIT", tmp_path / "memory.max")
  (tmp_path / "memory.max").write_text("max\n")
  whole = device_bytes(MESH)
  (tmp_path / "memory.max").write_text("1048576\n")
  assert whole > device_bytes(MESH) == 2**20 // jax.local_device_count()


SHARDED = """
import json
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from layers.errors import UserError
from runners.devices import memory
from runners.devices.memory import bytes_per_device, device_bytes
from runners.train_state import TrainState
mesh = Mesh(jax.devices(), ("fsdp",))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))
tree = [jax.ShapeDtypeStruct((16, 3), d, sharding=s) for d, s in
        ((jnp.float32, split), (jnp.bfloat16, split), (jnp.int32, whole))]
memory.device_bytes = lambda mesh: 1000
copied = jax.ShapeDtypeStruct((450,), jnp.float32, sharding=whole)
try:
  memory.check_memory(TrainState((), copied, (), (), ()), mesh)
except UserError as error:
  print(json.dumps([bytes_per_device(tree), device_bytes(mesh), str(error)]))
"""


def test_a_device_holds_its_shards_and_copies_need_no_devices_of_their_own(run_with_devices):
  held, there, error = run_with_devices(8, SHARDED)
  assert held == 2 * 3 * 4 + 2 * 3 * 2 + 16 * 3 * 4
  assert there == device_bytes(MESH) * jax.local_device_count() // 8
  # 1800 bytes and a gradient, 3600 on each of the 8: 4 devices of 1000 could share them.
  assert "on each of 8 device(s)" in error and "over 4 such devices or more" in error
