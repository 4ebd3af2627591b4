"""The device mesh: its axes, the default sharding rules, and how batches are placed on it."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from layers.errors import UserError
from layers.ranges import AxisSize, PositiveInt

AXES = ("data", "fsdp", "sequence", "expert", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical axis -> mesh axis. The first match wins, and an array uses a mesh axis only once
# (Xu et al., 2021, https://arxiv.org/abs/2105.04663). Weights are split over fsdp and tensor,
# activations over data and fsdp, sequence, tensor.
DEFAULT_RULES = (
  ("batch", ("data", "fsdp")),
  ("length", "sequence"),
  ("activation_heads", "tensor"),
  ("activation_kv_heads", "tensor"),
  ("activation_mlp", "tensor"),
  ("activation_vocab", "tensor"),
  ("activation_embed", None),
  ("vocab", "tensor"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  ("embed", "fsdp"),
  ("position", None),
  ("head_dim", None),
  ("layers", None),
)

# Add these to the rules to split the residual stream, its norms and its dropout by length over
# the tensor axis too (Korthikanti et al., 2022, https://arxiv.org/abs/2205.05198, section
# 4.2.2).
RESIDUAL_OVER_TENSOR = (("residual_length", ("sequence", "tensor")),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Devices along each axis; one of the first five may be -1, meaning all remaining devices.

  A machine of several slices or nodes has a fast network within a slice and a slow one between
  slices. With `dcn_<axis>` slices along it, an axis has dcn_<axis> * <axis> devices in all.
  Tensor parallelism communicates in every layer, so it stays within a slice.

  Attributes:
    data: splits rows; each device has a copy of the model.
    fsdp: splits rows, and the parameters too.
    sequence: splits the tokens of a row.
    expert: splits the experts of a mixture.
    tensor: splits heads, hidden features and vocabulary.
    dcn_data, dcn_fsdp, dcn_sequence, dcn_expert: slices along the axis. If all are 1 on a
      machine of several slices, the outermost axes cross them.
  """

  data: AxisSize = -1
  fsdp: AxisSize = 1
  sequence: AxisSize = 1
  expert: AxisSize = 1
  tensor: AxisSize = 1
  dcn_data: PositiveInt = 1
  dcn_fsdp: PositiveInt = 1
  dcn_sequence: PositiveInt = 1
  dcn_expert: PositiveInt = 1

  def sizes(self, num_devices: int) -> dict[str, int]:
    """Axis -> size over all slices, with the -1 resolved.

    Raises:
      UserError: the product is not num_devices.
    """
    inner, slices = self._inner(), self.slices()
    free = [axis for axis, size in inner.items() if size == -1]
    allowed = [size for size in inner.values() if size != -1] + list(slices.values())
    if len(free) > 1 or min(allowed) < 1:
      raise UserError(f"mesh {self}: sizes are at least 1, and one axis at most may be -1")
    known = math.prod(allowed)
    if free and num_devices % known == 0:
      inner[free[0]] = num_devices // known
    elif free or known != num_devices:
      others = known // inner["data"]
      fits = not free and num_devices % others == 0
      raise UserError(
        f"mesh {self} does not fit {num_devices} device(s): its sizes multiply to {known}"
        f"{', which does not divide them' if free else ''}; "
        f"{'let data take the rest: --set=mesh.data=-1' if fits else 'change one'}"
      )
    return {axis: inner[axis] * slices[axis] for axis in AXES}

  def slices(self) -> dict[str, int]:
    """Axis -> slices along it."""
    return {axis: getattr(self, f"dcn_{axis}", 1) for axis in AXES}

  def num_devices(self, at_hand: int) -> int:
    """The devices that the sizes need; for an axis of -1 `at_hand`, if the others divide it."""
    inner = self._inner()
    known = math.prod(size for size in (*inner.values(), *self.slices().values()) if size > 0)
    return at_hand if -1 in inner.values() and at_hand % known == 0 else known

  def build(self, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (None: all), with neighbours placed by their topology."""
    devices = jax.devices() if devices is None else devices
    return Mesh(arrange(self.sizes(len(devices)), self.slices(), devices), AXES)

  def describe(self, num_devices: int) -> AbstractMesh:
    """The mesh over `num_devices` devices, which may be absent."""
    sizes = tuple(self.sizes(num_devices).values())
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))

  def _inner(self) -> dict[str, int]:
    return {axis: getattr(self, axis) for axis in AXES}

  def __str__(self) -> str:
    sizes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "data=1"


def arrange(
  sizes: dict[str, int], slices: dict[str, int], devices: Sequence[Any]
) -> np.ndarray:
  """The devices in an array with the dimensions `sizes`.

  Along an axis, the devices of one slice come before the devices of the next. A slice is a
  value of the devices' slice_index, or a process; on CPU, where slices are simulated, it is an
  equal part of the list.

  Args:
    sizes: axis -> devices along it, over all slices.
    slices: axis -> slices along it; if all are 1, existing slices go to the outermost axes.
    devices: as many as the product of the sizes.

  Raises:
    UserError: there are not as many slices, or they differ in size.
  """
  from jax.experimental import mesh_utils  # slow to import; not needed to inspect a config

  found = _groups(devices, "slice_index")
  if math.prod(slices.values()) == 1 and len(found) > 1:
    slices = _outermost(sizes, len(found))
  wanted = math.prod(slices.values())
  inner, outer = [sizes[axis] // slices[axis] for axis in sizes], list(slices.values())
  if wanted == 1:
    return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
  if devices[0].platform == "cpu" and len(found) == 1:
    return _interleaved(np.asarray(devices).reshape(*outer, *inner))
  by_process = len(found) != wanted
  groups = _groups(devices, "process_index") if by_process else found
  if len(groups) != wanted or len(set(groups.values())) != 1:
    raise UserError(
      f"mesh.dcn_* multiply to {wanted}, and the {len(devices)} devices are in {len(found)} "
      f"slice(s) of {sorted(found.values())} and {len(_groups(devices, 'process_index'))} "
      "process(es): let dcn_* multiply to the number of slices"
    )
  return mesh_utils.create_hybrid_device_mesh(
    inner, outer, devices, process_is_granule=by_process, allow_split_physical_axes=True
  )


def _groups(devices: Sequence[Any], attribute: str) -> dict[Any, int]:
  """Value of the attribute -> number of devices; without the attribute all are one group."""
  return collections.Counter(getattr(device, attribute, None) for device in devices)


def _outermost(sizes: dict[str, int], num_slices: int) -> dict[str, int]:
  """Slices along each axis when the outermost axes cross them."""
  slices, left = {}, num_slices
  for axis, size in sizes.items():
    slices[axis] = 1 if axis == "tensor" else math.gcd(size, left)
    left //= slices[axis]
  if left > 1:
    shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)
    raise UserError(
      f"mesh {shown} cannot be laid over {num_slices} slices: the sizes of the axes other than "
      f"tensor have to be a multiple of {num_slices} together"
    )
  return slices


def _interleaved(blocks: np.ndarray) -> np.ndarray:
  """Merges [slices of each axis..., devices of each axis...] to one dimension for each axis."""
  rank = blocks.ndim // 2
  order = [n for axis in range(rank) for n in (axis, rank + axis)]
  outer, inner = blocks.shape[:rank], blocks.shape[rank:]
  return blocks.transpose(order).reshape([a * b for a, b in zip(outer, inner, strict=True)])


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits rows over the batch axes; sequences stay whole until the model splits them."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def check_batch(name: str, size: int, mesh: Mesh | AbstractMesh) -> None:
  """Raises UserError unless the devices along data and fsdp divide `size` rows."""
  num_shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  if size % num_shards:
    raise UserError(
      f"{name}={size} is not a multiple of the {num_shards} devices along data and fsdp; "
      f"the next that is: {num_shards * math.ceil(size / num_shards)}"
    )


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, Any]:
  """Makes global arrays of which this process supplies its own rows."""
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return {
    key: jax.make_array_from_process_local_data(sharding, rows) for key, rows in batch.items()
  }
