"""The seconds that a step's exchanges take over the links between devices."""

import math
from collections.abc import Iterable, Mapping

from runners.devices.collectives import Collective
from runners.devices.meshes import AXES
from runners.planning.topologies import Topology


def exchange_seconds(
  found: Iterable[Collective], mesh: Mapping[str, int], topology: Topology
) -> float:
  """Seconds for all exchanges, one after another, each at the speed of its links.

  Args:
    found: the collectives of a step.
    mesh: axis -> devices along it, where they are more than one.
    topology: the devices.
  """
  return sum(_factor(each) * each.bytes / link_speed(each, mesh, topology) for each in found)


def link_speed(each: Collective, mesh: Mapping[str, int], topology: Topology) -> float:
  """Bytes a second: fast links, or the network if the group of devices exceeds a host."""
  accelerator, inner, widest = topology.accelerator, 1, 1
  for axis in reversed(AXES):  # devices along the last axis are neighbours
    inner *= mesh.get(axis, 1)
    if axis in each.axes or each.axes == ("?",):
      widest = inner
  within = widest <= topology.devices_per_host
  return (accelerator.link if within else accelerator.network) or math.inf


def _factor(each: Collective) -> int:
  """2 for an all-reduce, which is a reduce-scatter and an all-gather; else 1."""
  return 2 if each.kind == "all-reduce" else 1
