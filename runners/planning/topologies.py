"""Accelerators that may be absent: names, memory, speed, and devices to compile for.

  v5p:4x4x4     TPU chips along the dimensions of a slice
  h100:8x8      hosts x GPUs of a host
  cpu:8         simulated devices of this machine

Memory: for a TPU the bytes that its compiler grants a program, for a GPU the bytes that it
reports. Speed: bytes a second that one device sends over the links within a slice or host, and
over the network between hosts. Sources: cloud.google.com/tpu/docs, NVIDIA's data sheets, and
for the compiler's description of a GPU openxla/xla, xla/backends/gpu/target_config/specs.
"""

import dataclasses
import importlib.machinery
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from layers.errors import UserError
from layers.suggestions import did_you_mean

Platform = Literal["tpu", "cuda", "cpu"]

_GIB = 2**30
_MOST_DEVICES = 8192


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """One kind of device.

  Attributes:
    platform: the compiler it needs.
    device_kind: jax's name for it.
    memory: bytes that a program may use on a device.
    link: bytes a second between devices of a slice or host; network: between hosts.
    num_dimensions: of a topology's shape.
    devices_per_chip: jax may count a chip as two devices.
    settings: values for the compiler's description of it.
  """

  platform: Platform
  device_kind: str
  memory: int | None
  link: float | None = None
  network: float | None = None
  num_dimensions: int = 2
  devices_per_chip: int = 1
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _tpu(kind: str, gib: float, gigabits: float, dimensions: int, **rest: Any) -> Accelerator:
  """`gigabits`: Gbit/s between chips, all links of a chip and both directions together."""
  link = gigabits / 8 * 1e9 / 2 / rest.get("devices_per_chip", 1)
  return Accelerator("tpu", kind, int(gib * _GIB), link, None, dimensions, **rest)


def _gpu(
  kind: str,
  memory: int,
  bandwidth: int,
  nvlink: float,
  cores: int,
  clock: float,
  l2: int,
  capability: int,
  *,
  network: float = 50e9,
  fpus: int = 128,
  shared_memory: int = 233472,
) -> Accelerator:
  settings = {
    "memory": memory,
    "bandwidth": bandwidth,
    "cores": cores,
    "clock": clock,
    "l2": l2,
    "capability": capability,
    "extension": "ACCELERATED_FEATURES" if capability >= 9 else "NONE",
    "fpus": fpus,
    "shared_memory": shared_memory,
    "shared_memory_optin": shared_memory - 1024,
    "kind": kind,
  }
  return Accelerator("cuda", kind, memory, nvlink, network, settings=settings)


ACCELERATORS = {
  "v4": _tpu("TPU v4", 30.75, 2400, 3, settings={"chip_config_name": "megacore"}),
  "v5e": _tpu("TPU v5 lite", 15.75, 1600, 2),
  "v5p": _tpu("TPU v5", 95.74, 4800, 3),
  "v6e": _tpu("TPU v6 lite", 31.25, 3584, 2),
  "tpu7x": _tpu("TPU7x", 94.75, 9600, 3, devices_per_chip=2),
  "a100": _gpu(
    "NVIDIA A100-SXM4-80GB",
    85_100_068_864,
    2_039_040_000_000,
    300e9,
    108,
    1.41,
    41_943_040,
    8,
    network=25e9,
    fpus=64,
    shared_memory=167_936,
  ),
  "h100": _gpu(
    "NVIDIA H100 80GB HBM3",
    84_942_979_072,
    3_352_320_000_000,
    450e9,
    132,
    1.98,
    52_428_800,
    9,
  ),
  "h200": _gpu(
    "NVIDIA H200",
    151_397_597_184,
    4_800_000_000_000,
    450e9,
    132,
    1.98,
    52_428_800,
    9,
  ),
  "b200": _gpu(
    "NVIDIA B200",
    191_514_411_008,
    7_672_320_000_000,
    900e9,
    148,
    1.965,
    132_644_864,
    10,
  ),
  "cpu": Accelerator("cpu", "cpu", None, num_dimensions=1),
}

# Any one of these modules brings the compiler for a platform.
_COMPILERS: dict[Platform, tuple[str, ...]] = {
  "tpu": ("libtpu",),
  "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"),
  "cpu": (),
}

# The CUDA compiler's description of a device that is absent.
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_optin}
  core_count: {cores} fpus_per_core: {fpus} clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} device_memory_size: {memory}
  cuda_compute_capability {{ major: {capability} feature_extension: {extension} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{kind}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
  """A number of devices of one kind, and how they are connected.

  Attributes:
    name: as the user wrote it.
    accelerator: the kind of device.
    shape: (chips along each dimension) for TPUs, (hosts, GPUs of a host), or (CPU devices,).
  """

  name: str
  accelerator: Accelerator
  shape: tuple[int, ...]

  @property
  def num_devices(self) -> int:
    return math.prod(self.shape) * self.accelerator.devices_per_chip

  @property
  def devices_per_host(self) -> int:
    """The number of devices joined by fast links: all of a TPU slice."""
    return self.shape[-1] if self.accelerator.platform == "cuda" else self.num_devices

  @property
  def extra(self) -> str | None:
    """The extra of Strata that installs its compiler; None: no extra is needed."""
    return {"tpu": "tpu", "cuda": "gpu-plan", "cpu": None}[self.accelerator.platform]

  def can_compile(self) -> bool:
    """Whether its compiler is installed."""
    modules = _COMPILERS[self.accelerator.platform]
    # Not by sys.modules, in which runners/devices/absent_accelerators.py hides the compilers.
    return not modules or any(map(importlib.machinery.PathFinder.find_spec, modules))

  def environment(self) -> dict[str, str]:
    """Environment variables of a process that compiles for it; set before jax starts."""
    if self.accelerator.platform == "tpu" and self.can_compile():
      return {
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # required but unused: any value does
        "TF_CPP_MIN_LOG_LEVEL": "3",
      }
    if self.accelerator.platform == "cuda" and self.can_compile():
      return {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.num_devices}",
    }

  def devices(self) -> Sequence[Any]:
    """The devices for a mesh, in a process with `environment()`."""
    import jax
    from jax.experimental import topologies

    accelerator = self.accelerator
    if accelerator.platform == "cpu" or not self.can_compile():
      return jax.devices("cpu")[: self.num_devices]
    if accelerator.platform == "cuda":
      return topologies.get_topology_desc(
        platform="cuda",
        target_config=_TARGET.format(**accelerator.settings),
        topology="x".join(map(str, (1, *self.shape))),
      ).devices
    try:
      return topologies.get_topology_desc(
        platform="tpu",
        topology_name=self.name,
        **accelerator.settings,
        **_connections(self.shape),
      ).devices
    except jax.errors.JaxRuntimeError as error:
      reason = str(error).splitlines()[0]
      raise UserError(f"--topology={self.name} is no slice that there is: {reason}") from error


def parse(text: str) -> Topology:
  """The topology with this name, such as "v5p:4x4x4".

  Raises:
    UserError: there is no such device or shape.
  """
  kind, _, shape = text.partition(":")
  if kind not in ACCELERATORS:
    raise UserError(f"--topology={text}: {did_you_mean(kind, ACCELERATORS)}")
  accelerator = ACCELERATORS[kind]
  example = {1: "8", 2: "8x8", 3: "4x4x4"}[accelerator.num_dimensions]
  sizes = tuple(map(int, shape.split("x"))) if re.fullmatch(r"\d+(x\d+)*", shape) else ()
  if len(sizes) != accelerator.num_dimensions or min(sizes) < 1:
    what = "hosts x GPUs of a host, as" if accelerator.platform == "cuda" else "as"
    raise UserError(f"--topology={text}: write {what} {kind}:{example}")
  topology = Topology(text, accelerator, sizes)
  _check_size(topology)
  return topology


def _check_size(topology: Topology) -> None:
  """Raises UserError for an impossible slice, and for more than 8192 devices."""
  name, shape = topology.name, topology.shape
  if topology.num_devices > _MOST_DEVICES:
    raise UserError(
      f"--topology={name} has {topology.num_devices:,} devices, and a plan at most "
      f"{_MOST_DEVICES:,}: memory and exchanges of a device hardly change beyond"
    )
  is_slice = topology.accelerator.platform == "tpu" and math.prod(shape) > 1
  if is_slice and (shape[0] % 2 or shape[1] % 2):
    raise UserError(
      f"--topology={name}: a host has 2x2 chips, which the first two dimensions have to be "
      "multiples of (or one chip in all)"
    )


def _connections(shape: tuple[int, ...]) -> dict[str, Any]:
  """Which dimensions of a TPU slice close to a ring, and the chips of its hosts.

  With three dimensions, a multiple of 4 chips closes; with two, the 16 chips of a whole pod.
  """
  closes = (lambda n: n % 4 == 0) if len(shape) == 3 else (lambda n: n == 16)
  wrap = [*map(closes, shape), *[False] * (3 - len(shape))]
  connections: dict[str, Any] = {"wrap": tuple(wrap)}
  if math.prod(shape) == 1:
    connections["chips_per_host_bounds"] = (1, 1, 1)
  return connections
