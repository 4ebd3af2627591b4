"""How fast devices multiply, and read and write their memory: the rates that time a step.

Measured where somebody measured, else the vendor's data sheet, which no program reaches.
Sources: one H200 (jax 0.11.2, large bfloat16 products; reading and writing 8 GB), NVIDIA's data
sheets, docs.cloud.google.com/tpu. The pause between two kernels of a GPU is the difference that
NVIDIA gives between 20 short kernels launched one after another and their own time
(developer.nvidia.com/blog/cuda-graphs).
"""

import dataclasses

from runners.devices.flops import of_device, peak_flops

_GPU_PAUSE = 0.9e-6  # seconds


@dataclasses.dataclass(frozen=True)
class Rates:
  """The rates of one device, as jax counts devices.

  Attributes:
    flops: a second, of large products in bfloat16.
    memory: bytes a second, read and written together.
    pause: seconds between two kernels.
    measured: whether flops and memory were; else they are the data sheet's.
  """

  flops: float
  memory: float
  pause: float
  measured: bool = False


# Bytes a second that data sheets promise, by the same names as in runners/devices/flops.py.
_MEMORY = {
  "TPU v4": 1228e9,
  "TPU v5 lite": 819e9,
  "TPU v5e": 819e9,
  "TPU v5": 2765e9,
  "TPU v5p": 2765e9,
  "TPU v6 lite": 1640e9,
  "TPU v6e": 1640e9,
  "TPU7x": 3690e9,  # half a chip
  "NVIDIA A100": 2039e9,
  "NVIDIA A100-SXM4-40GB": 1555e9,
  "NVIDIA H100": 3350e9,
  "NVIDIA H100 PCIe": 2000e9,
  "NVIDIA H100 NVL": 3900e9,
  "NVIDIA H200": 4800e9,
  "NVIDIA GH200": 4000e9,
  "NVIDIA B200": 8000e9,
  "NVIDIA GB200": 8000e9,
}

_MEASURED = {"NVIDIA H200": (790e12, 4.3e12)}


def rates(device_kind: str) -> Rates | None:
  """The rates of a device; None if unknown, as for a CPU."""
  pause = _GPU_PAUSE if device_kind.startswith("NVIDIA") else 0.0
  if device_kind in _MEASURED:
    return Rates(*_MEASURED[device_kind], pause, measured=True)
  flops, memory = peak_flops(device_kind), of_device(_MEMORY, device_kind)
  return Rates(flops, memory, pause) if flops and memory else None
