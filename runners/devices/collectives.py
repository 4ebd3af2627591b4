"""The exchanges (collectives) of a compiled program in one run, read from its HLO text.

A collective inside loops counts once for every iteration; of a choice the branch that exchanges
most counts. Its bytes are the larger of input and output on one device: the output of an
all-gather, the input of a reduce-scatter.
"""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from runners.devices.hlo import Instruction, Program, arrays, elements

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)


class Collective(NamedTuple):
  """One kind of exchange, at one place of the program.

  Attributes:
    kind: one of KINDS.
    axes: mesh axes along which devices exchange.
    count: times in a run, counted for each array, since compilers differ in how many arrays
      they combine.
    bytes: on one device, over all times.
    source: the layers and operations it came from.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  bytes: int
  source: str


def collectives(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
  """The collectives of a program for a mesh, the largest first.

  Args:
    program: compiled, for devices in the order of the mesh.
    mesh: axis -> devices along it.
  """
  times = program.times(_weight)
  repeated = _repeated(program.computations)
  found = [
    collective
    for name, body in program.computations.items()
    if times[name]
    for instruction in body
    if instruction not in repeated.get(name, ())
    and (collective := _collective(name, body, instruction, times[name], mesh)) is not None
  ]
  return sorted(found, key=lambda c: -c.bytes)


def by_kind(found: Sequence[Collective]) -> list[Collective]:
  """Sums over the places of a program: one for each kind and axes, the largest first."""
  totals: dict[tuple[str, tuple[str, ...]], list[int]] = collections.defaultdict(lambda: [0, 0])
  for kind, axes, count, size, _ in found:
    totals[kind, axes][0] += count
    totals[kind, axes][1] += size
  sums = [Collective(*key, count, size, "") for key, (count, size) in totals.items()]
  return sorted(sums, key=lambda c: -c.bytes)


def _repeated(
  computations: Mapping[str, Sequence[Instruction]],
) -> dict[str, list[Instruction]]:
  """Fused computation -> its collectives that an earlier fusion has already.

  A TPU's compiler spreads one exchange over several fusions; each repeats the same instruction
  with the same channel.
  """
  repeated: dict[str, list[Instruction]] = collections.defaultdict(list)
  for instructions in computations.values():
    seen = set()
    for call in instructions:
      fused = call.called()[:1] if call.opcode == "fusion" else ()
      for name in fused:
        for instruction in computations.get(name, ()):
          channel = re.search(r"channel_id=(\d+)", instruction.text)
          key = (instruction.opcode, channel and channel[1])
          if channel and key in seen:
            repeated[name].append(instruction)
          seen.add(key)
  return repeated


def _collective(
  computation: str,
  body: Sequence[Instruction],
  instruction: Instruction,
  times: int,
  mesh: Mapping[str, int],
) -> Collective | None:
  """The instruction as a Collective; None if it is none or involves a single device."""
  kind = instruction.opcode.removesuffix("-start")
  if kind not in KINDS:
    return None
  axes = _axes(instruction.text, mesh)
  if axes == ():
    return None
  count, size = _arrays_and_bytes(instruction)
  if kind == "reduce-scatter" == instruction.opcode:  # its HLO shape is the output only
    size *= math.prod(mesh.get(axis, 1) for axis in axes or ())
  if computation.startswith("all-reduce-scatter"):  # how a TPU fuses the two
    kind = "reduce-scatter"
  source = _source(instruction, body)
  return Collective(kind, axes or ("?",), times * count, times * size, source)


def _source(instruction: Instruction, body: Sequence[Instruction]) -> str:
  """Its place; without one, as the partitioner may add it, the place of its first user."""
  while not instruction.source:
    users = (user for user in body if instruction.name in user.operands)
    if (user := next(users, None)) is None:
      return ""
    instruction = user
  return instruction.source


def _weight(instruction: Instruction) -> int:
  is_one = instruction.opcode.removesuffix("-start") in KINDS
  return _arrays_and_bytes(instruction)[1] if is_one else 0


def _arrays_and_bytes(instruction: Instruction) -> tuple[int, int]:
  """Number and bytes of the arrays, for the larger of input and output.

  The shape of a "-start" instruction holds both input and output, except for an all-reduce.
  """
  opcode, found = instruction.opcode, instruction.arrays
  if not opcode.endswith("-start") or opcode == "all-reduce-start":
    return len(found), sum(array.bytes for array in found)
  before, after = map(arrays, elements(instruction.shape)[:2])
  return len(after), max(sum(array.bytes for array in side) for side in (before, after))


def _axes(instruction: str, mesh: Mapping[str, int]) -> tuple[str, ...] | None:
  """The mesh axes along which members of a group differ; None if the text is not understood."""
  groups = _groups(instruction, math.prod(mesh.values()))
  if groups is None:
    return None
  sizes = tuple(mesh.values())
  varies = np.zeros(len(sizes), bool)
  for group in groups:
    coordinates = np.array(np.unravel_index(group, sizes))
    varies |= (coordinates != coordinates[:, :1]).any(axis=1)
  return tuple(axis for axis, does in zip(mesh, varies, strict=True) if does)


def _groups(instruction: str, num_devices: int) -> list[list[int]] | None:
  """Groups of devices that exchange with each other, from any of HLO's notations."""
  if pairs := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})?\}", instruction):
    listed = re.findall(r"\{([\d,]*)\}", pairs[1] or "")
    return [[int(n) for n in group.split(",") if n] for group in listed] or [
      [*range(num_devices)]
    ]
  if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?: \{([^}]*)\})?", instruction):
    return _named_groups(named[1], named[2])
  if listed := re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", instruction
  ):
    shape, sizes, order = (
      [int(n) for n in (text or "").split(",") if n] for text in listed.groups()
    )
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose(order or None).reshape(shape).tolist()
  return None


def _named_groups(axes: str, chosen: str | None) -> list[list[int]] | None:
  """Groups along the `chosen` axes of the compiler's own mesh; along all axes if None."""
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
  names = re.findall(r"'([^']+)'", chosen) if chosen else [*sizes]
  if "device_ids" in axes or not set(names) <= sizes.keys() or re.search(r":\(", chosen or ""):
    return None
  devices = np.arange(math.prod(sizes.values())).reshape([*sizes.values()])
  places = [[*sizes].index(name) for name in names]
  moved = np.moveaxis(devices, places, range(len(places)))
  return moved.reshape(math.prod(sizes[name] for name in names), -1).T.tolist()
