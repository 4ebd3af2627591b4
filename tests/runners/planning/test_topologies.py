"""A topology says how many devices of which kind there are, and how they are connected."""

import pytest

from layers.errors import UserError
from runners.devices.flops import peak_flops
from runners.planning.topologies import ACCELERATORS, _connections, parse


@pytest.mark.parametrize(
  ("name", "devices", "on_a_host"),
  [
    ("v5p:4x4x4", 64, 64),
    ("v5e:16x16", 256, 256),
    ("tpu7x:2x2x1", 8, 8),  # two devices a chip
    ("h100:8x8", 64, 8),
    ("h200:1x8", 8, 8),
    ("cpu:8", 8, 8),
  ],
)
def test_a_name_gives_the_number_of_devices(name, devices, on_a_host):
  topology = parse(name)
  assert (topology.num_devices, topology.devices_per_host) == (devices, on_a_host)


@pytest.mark.parametrize(
  ("name", "cure"),
  [
    ("h101:8x8", "did you mean h100"),
    ("v5p", "write as v5p:4x4x4"),
    ("v5p:4x4", "write as v5p:4x4x4"),
    ("h100:8", "write hosts x GPUs of a host, as h100:8x8"),
    ("cpu:0", "write as cpu:8"),
    ("v5e:2xx4", "write as v5e:8x8"),
    ("v5e:3x5", "a host has 2x2 chips"),
    ("v5e:1x2", "a host has 2x2 chips"),
    ("v5p:1000x1000x1000", "1,000,000,000 devices"),
    ("cpu:99999999999999999999", "at most 8,192"),
  ],
)
def test_a_name_that_is_none_is_refused_with_one_that_is(name, cure):
  with pytest.raises(UserError, match=cure) as error:
    parse(name)
  assert name in str(error.value)


def test_every_accelerator_has_a_peak_speed_and_links():
  for name, accelerator in ACCELERATORS.items():
    if name != "cpu":
      assert peak_flops(accelerator.device_kind), name
      assert accelerator.link and accelerator.memory, name


def test_cubes_and_whole_pods_close_to_rings():
  assert _connections((4, 4, 8))["wrap"] == (True, True, True)
  assert _connections((2, 4, 4))["wrap"] == (False, True, True)
  assert _connections((8, 16))["wrap"] == (False, True, False)
  assert _connections((1, 1, 1))["chips_per_host_bounds"] == (1, 1, 1)


def test_without_its_compiler_as_many_cpu_devices_stand_in(monkeypatch):
  monkeypatch.setattr("importlib.machinery.PathFinder.find_spec", lambda name: None)
  topology = parse("h100:2x8")
  assert not topology.can_compile()
  assert topology.environment() == {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=16",
  }


@pytest.mark.parametrize("plugin", ["jax_cuda12_plugin", "jax_cuda13_plugin"])
def test_either_plugin_compiles_for_a_gpu(monkeypatch, plugin):
  monkeypatch.setattr(
    "importlib.machinery.PathFinder.find_spec", lambda name: name == plugin or None
  )
  assert parse("h100:2x8").can_compile()
  assert not parse("v5p:2x2x2").can_compile()
