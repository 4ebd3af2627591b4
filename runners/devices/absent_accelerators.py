"""Keeps jax from trying accelerators that this machine does not have.

The extras gpu-plan and tpu install compilers with which `runner plan` compiles for absent GPUs
and TPUs. In every other command those packages only complain about the missing device: six
lines when jax is imported, and a traceback at the first array.
If the device is present, or JAX_PLATFORMS asks for it, nothing is changed.
"""

import glob
import os
import sys
import types
from collections.abc import Mapping, MutableMapping
from typing import Any

# A plugin's modules: the one with its code -> the one that jax calls to initialise it.
_CUDA_PLUGINS = {
  "jax_cuda12_plugin": "jax_plugins.xla_cuda12",
  "jax_cuda13_plugin": "jax_plugins.xla_cuda13",
}

_NVIDIA_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")  # jax looks there too
_PCI_VENDORS = "/sys/bus/pci/devices/*/vendor"
_GOOGLE = "0x1ae0"
_TPU_VARIABLES = ("TPU_LIBRARY_PATH", "TPU_NAME", "JAX_FORCE_TPU_INIT")


def has_nvidia_gpu() -> bool:
  """Whether the system has NVIDIA device files, even if the driver fails."""
  return any(map(os.path.exists, _NVIDIA_DEVICES))


def has_tpu() -> bool:
  """Whether the system shows a TPU."""
  return bool(glob.glob("/dev/accel*")) or any(map(_is_googles, glob.glob(_PCI_VENDORS)))


def leave_out(
  environment: Mapping[str, str] = os.environ,
  modules: MutableMapping[str, Any] = sys.modules,
) -> None:
  """Hides plugins of absent devices from this process. Call it before importing jax.

  Args:
    environment: variables, among them JAX_PLATFORMS and the ones that announce a TPU.
    modules: sys.modules, or a stand-in; None in it blocks a module's import.
  """
  asked = environment.get("JAX_PLATFORMS", "").replace("gpu", "cuda").split(",")
  if not has_nvidia_gpu() and "cuda" not in asked:
    for code, beginning in _CUDA_PLUGINS.items():
      modules.setdefault(code, None)
      idle: Any = types.ModuleType(beginning)  # jax reports a missing module
      idle.initialize = lambda: None
      modules.setdefault(beginning, idle)
  announced = any(variable in environment for variable in _TPU_VARIABLES)
  if not has_tpu() and not announced and "tpu" not in asked:
    modules.setdefault("libtpu", None)


def _is_googles(vendor_file: str) -> bool:
  try:
    with open(vendor_file) as file:
      return file.read().strip() == _GOOGLE
  except OSError:
    return False
