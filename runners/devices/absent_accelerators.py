"""Keeps jax from trying the accelerators that this machine does not have.

`runner plan` compiles for GPUs and TPUs that are not there, with what the extras gpu-plan and
tpu install. In any other command those packages only complain of the missing device: in six
lines when jax is imported, and with a traceback at the first array.
Where the device is there, or JAX_PLATFORMS asks for it, nothing is changed and nothing hidden.
"""

import glob
import os
import sys
import types
from collections.abc import Mapping, MutableMapping
from typing import Any

# The modules of a plugin: with its code, and the one that jax calls to begin with it.
_CUDA_PLUGINS = {
  "jax_cuda12_plugin": "jax_plugins.xla_cuda12",
  "jax_cuda13_plugin": "jax_plugins.xla_cuda13",
}

_NVIDIA_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")  # where jax looks for them
_PCI_VENDORS = "/sys/bus/pci/devices/*/vendor"
_GOOGLE = "0x1ae0"
_TPU_VARIABLES = ("TPU_LIBRARY_PATH", "TPU_NAME", "JAX_FORCE_TPU_INIT")


def has_nvidia_gpu() -> bool:
  """Whether the system shows a GPU of NVIDIA, whatever its driver says."""
  return any(map(os.path.exists, _NVIDIA_DEVICES))


def has_tpu() -> bool:
  """Whether the system shows a TPU."""
  return bool(glob.glob("/dev/accel*")) or any(map(_is_googles, glob.glob(_PCI_VENDORS)))


def leave_out(
  environment: Mapping[str, str] = os.environ,
  modules: MutableMapping[str, Any] = sys.modules,
) -> None:
  """Makes this process find no plugin for a device that is absent; call it before jax is there.

  Args:
    environment: JAX_PLATFORMS, and the variables that TPUs are announced with.
    modules: where None stands for a module that cannot be imported.
  """
  asked = environment.get("JAX_PLATFORMS", "").replace("gpu", "cuda").split(",")
  if not has_nvidia_gpu() and "cuda" not in asked:
    for code, beginning in _CUDA_PLUGINS.items():
      modules.setdefault(code, None)
      idle: Any = types.ModuleType(beginning)  # without one, jax says that it is missing
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
