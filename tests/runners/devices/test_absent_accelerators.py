"""Packages for a device that is absent say nothing; where it is there, jax finds them."""

import importlib
import subprocess
import sys

import pytest

from runners.devices import absent_accelerators
from runners.planning.topologies import parse

CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@pytest.fixture
def left_out(monkeypatch):
  """The modules that a machine with these devices leaves out."""

  def call(*, gpu=False, tpu=False, environment=()):
    monkeypatch.setattr(absent_accelerators, "has_nvidia_gpu", lambda: gpu)
    monkeypatch.setattr(absent_accelerators, "has_tpu", lambda: tpu)
    modules = {}
    absent_accelerators.leave_out(dict(environment), modules)
    return {name for name, module in modules.items() if module is None}

  return call


def test_a_machine_without_accelerators_leaves_out_what_is_for_them(left_out):
  assert left_out() == {*CUDA, "libtpu"}


def test_what_is_there_is_not_left_out(left_out):
  assert left_out(gpu=True) == {"libtpu"}
  assert left_out(tpu=True) == {*CUDA}
  assert left_out(gpu=True, tpu=True) == set()


@pytest.mark.parametrize("platforms", ["cuda", "gpu", "cpu,cuda"])
def test_a_gpu_that_is_asked_for_may_fail_aloud(left_out, platforms):
  assert left_out(environment={"JAX_PLATFORMS": platforms}) == {"libtpu"}


@pytest.mark.parametrize(
  "environment", [{"JAX_PLATFORMS": "tpu,cpu"}, {"TPU_NAME": "pod"}, {"JAX_FORCE_TPU_INIT": ""}]
)
def test_a_tpu_that_is_asked_for_may_fail_aloud(left_out, environment):
  assert left_out(environment=environment) == {*CUDA}


def test_a_device_is_found_where_the_system_shows_it(monkeypatch, tmp_path):
  vendor = tmp_path / "vendor"
  vendor.write_text("0x8086\n")
  monkeypatch.setattr(absent_accelerators, "_PCI_VENDORS", str(vendor))
  monkeypatch.setattr(absent_accelerators, "_NVIDIA_DEVICES", (str(tmp_path / "nvidia0"),))
  assert not absent_accelerators.has_tpu() and not absent_accelerators.has_nvidia_gpu()
  vendor.write_text("0x1ae0\n")
  (tmp_path / "nvidia0").touch()
  assert absent_accelerators.has_tpu() and absent_accelerators.has_nvidia_gpu()


# A plugin that complains whenever it is imported or begun, as CUDA's does without a GPU.
NOISY = """
import sys
print("could not find cuda drivers", file=sys.stderr)
def initialize():
  raise RuntimeError("Unable to load CUDA")
"""


@pytest.mark.parametrize("asked", [False, True])
def test_jax_is_silent_about_a_plugin_unless_its_device_is_asked_for(tmp_path, asked):
  plugin = tmp_path / "jax_plugins" / "xla_cuda12" / "__init__.py"
  code = tmp_path / "jax_cuda12_plugin" / "_versions.py"
  for file in (plugin, code):
    file.parent.mkdir(parents=True)
    file.write_text(NOISY)
  program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from runners.devices import absent_accelerators
absent_accelerators.has_nvidia_gpu = lambda: False
absent_accelerators.leave_out({{"JAX_PLATFORMS": {"cuda" if asked else ""!r}}})
import jax
print(jax.devices()[0].platform)
"""
  environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
  result = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, env=environment
  )
  assert result.stdout == "cpu\n", result.stderr
  assert ("could not find cuda drivers" in result.stderr) == asked
  assert ("Unable to load CUDA" in result.stderr) == asked


def test_a_compiler_for_absent_devices_is_still_found(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "jax_cuda12_plugin", None)
  monkeypatch.setitem(sys.modules, "jax_cuda13_plugin", None)
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  assert not parse("h100:1x1").can_compile()
  (tmp_path / "jax_cuda12_plugin").mkdir()
  (tmp_path / "jax_cuda12_plugin" / "__init__.py").touch()
  importlib.invalidate_caches()
  assert parse("h100:1x1").can_compile()
