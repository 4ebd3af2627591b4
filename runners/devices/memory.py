"""Checks whether a run fits its devices before anything is allocated.

It counts parameters, optimizer moments and one gradient, which every step needs. Activations
come on top, so a run that passes may still not fit.
"""

import math
import os
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from layers.errors import UserError

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GIB = 2**30


def check_memory(state: Any, mesh: Mesh) -> None:
  """Raises UserError if a device of the mesh cannot hold its part of the state.

  Args:
    state: a TrainState of shapes and shardings.
    mesh: of the run.
  """
  there = device_bytes(mesh)
  needed = bytes_per_device(state) + bytes_per_device(state.params)
  if there is None or needed <= there:
    return
  kind = mesh.devices.flat[0].device_kind
  # Split over all devices, every array counts once, however many copies this mesh makes.
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state, state.params)))
  devices = math.ceil(whole / (0.9 * there))
  params = sum(x.size for x in jax.tree.leaves(state.params))
  raise UserError(
    f"{params:,} parameters, their moments and a gradient take {needed / _GIB:.1f} GiB on each "
    f"of {mesh.size} device(s), which has {there / _GIB:.1f} GiB ({kind}); split "
    f"them over {devices} such devices or more (mesh.fsdp, mesh.tensor), or take a smaller "
    "model (model.num_layers, model.model_dim)"
  )


def bytes_per_device(tree: object) -> int:
  """Bytes that one device holds of a tree of arrays, or of shapes with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def device_bytes(mesh: Mesh) -> int | None:
  """Bytes that programs may use on each device of the mesh; None if unknown.

  CPU devices share the memory of the machine, or of the container.
  """
  device = mesh.devices.flat[0]
  if device.platform != "cpu":
    return (device.memory_stats() or {}).get("bytes_limit")
  there = host_bytes()
  return there and there // jax.local_device_count()


def host_bytes() -> int | None:
  """Bytes of memory of the machine, or of the container; None if unknown."""
  if not hasattr(os, "sysconf"):
    return None
  there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if _CONTAINER_LIMIT.exists() and (limit := _CONTAINER_LIMIT.read_text().strip()).isdigit():
    there = min(there, int(limit))
  return there
