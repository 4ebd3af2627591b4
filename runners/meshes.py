"""The device mesh: named axes, what lies along each, and how batches meet them."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from layers.errors import UserError

AXES = ("data", "fsdp", "sequence", "expert", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical axis -> mesh axis, first match wins and a mesh axis serves an array once
# (Xu et al., 2021, https://arxiv.org/abs/2105.04663). Weights over fsdp and tensor,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Devices along each axis; one may be -1: all that the others leave.

  Attributes:
    data: copies of the model, each with its own rows.
    fsdp: rows too, with the parameters split instead of copied.
    sequence: tokens of a row.
    expert: experts of a mixture.
    tensor: heads, hidden features and vocabulary.
  """

  data: int = -1
  fsdp: int = 1
  sequence: int = 1
  expert: int = 1
  tensor: int = 1

  def sizes(self, num_devices: int) -> dict[str, int]:
    """Axis -> size, with the -1 resolved.

    Raises:
      UserError: the product is not num_devices.
    """
    sizes = {axis: getattr(self, axis) for axis in AXES}
    described = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1)
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
      raise UserError(f"mesh {described}: sizes are at least 1, and one at most may be -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free and num_devices % known == 0:
      sizes[free[0]] = num_devices // known
    if math.prod(sizes.values()) != num_devices:
      raise UserError(
        f"mesh {described or 'of one device'} does not fit {num_devices} device(s): "
        f"change it, for example --set=mesh.{(free or ['data'])[0]}=-1"
      )
    return sizes

  def build(self) -> Mesh:
    """The mesh over all devices, neighbours placed by their topology."""
    sizes = self.sizes(jax.device_count())
    shape = tuple(sizes.values())
    if jax.default_backend() == "cpu":
      devices = np.asarray(jax.devices()).reshape(shape)
    else:
      from jax.experimental import mesh_utils

      devices = mesh_utils.create_device_mesh(shape)
    return Mesh(devices, AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows over the batch axes; sequences whole until the model splits them."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def check_batch(name: str, size: int, mesh: Mesh) -> None:
  """Raises UserError unless the devices along data and fsdp divide `size` rows."""
  num_shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  if size % num_shards:
    raise UserError(
      f"{name}={size} is not a multiple of the {num_shards} devices along data and fsdp; "
      f"the next that is: {num_shards * math.ceil(size / num_shards)}"
    )


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, Any]:
  """This process's rows of each array as its part of one global array."""
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return {
    key: jax.make_array_from_process_local_data(sharding, rows) for key, rows in batch.items()
  }
