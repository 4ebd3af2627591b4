"""The exchanges (collectives) of a compiled program in one run, read from its HLO text.

A collective inside loops counts once for every iteration. Its bytes are the larger of input and
output on one device: the output of an all-gather, the input of a reduce-scatter.
"""

import collections
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%[\w.-]+ = ")
_OPCODE = re.compile(r"\s([a-z][a-z0-9-]*)\(")
_CALLED = re.compile(
  r"(?:body|calls|true_computation|false_computation)=%([\w.-]+)"
  r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_APPLIED = re.compile(r"to_apply=%([\w.-]+)")
_CONDITION = re.compile(r"condition=%([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_SOURCE = re.compile(r'op_name="([^"]*)"')


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


def collectives(hlo: str, mesh: Mapping[str, int]) -> list[Collective]:
  """The collectives of a program for a mesh, the largest first.

  Args:
    hlo: `compiled.as_text()`, for devices in the order of the mesh.
    mesh: axis -> devices along it.
  """
  program = _computations(hlo)
  times = _times(program, hlo)
  repeated = _repeated(program)
  found = [
    collective
    for name, instructions in program.items()
    if times[name]
    for instruction in instructions
    if instruction not in repeated.get(name, ())
    and (collective := _collective(name, instruction, times[name], mesh)) is not None
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


def _computations(hlo: str) -> dict[str, list[str]]:
  """Name -> instructions; one instruction may be several lines of text."""
  program: dict[str, list[str]] = {}
  current: list[str] = []
  for line in hlo.splitlines():
    if start := _COMPUTATION.match(line):
      current = program[start[1]] = []
    elif _INSTRUCTION.match(line):
      current.append(line)
    elif current and line.startswith(" "):
      current[-1] += line
  return program


def _repeated(program: Mapping[str, list[str]]) -> dict[str, list[str]]:
  """Fused computation -> its collectives that an earlier fusion has already.

  A TPU's compiler spreads one exchange over several fusions; each repeats the same instruction
  with the same channel.
  """
  repeated: dict[str, list[str]] = collections.defaultdict(list)
  for instructions in program.values():
    seen = set()
    for call in instructions:
      fused = re.search(r"calls=%([\w.-]+)", call) if _opcode(call) == "fusion" else None
      for instruction in program.get(fused[1], []) if fused else []:
        channel = re.search(r"channel_id=(\d+)", instruction)
        key = (_opcode(instruction), channel and channel[1])
        if channel and key in seen and fused:
          repeated[fused[1]].append(instruction)
        seen.add(key)
  return repeated


def _times(program: Mapping[str, list[str]], hlo: str) -> dict[str, int]:
  """Computation -> how often it runs. A loop with an unknown count counts once."""
  entry = re.search(r"^ENTRY %?([\w.-]+)", hlo, re.MULTILINE)
  calls = {
    name: [call for instruction in lines for call in _calls(instruction, program)]
    for name, lines in program.items()
  }
  times = dict.fromkeys(program, 0)

  def run(name: str, count: int) -> None:
    times[name] += count
    for called, trips in calls[name]:
      run(called, count * trips)

  if entry:
    run(entry[1], 1)
  return times


def _calls(instruction: str, program: Mapping[str, list[str]]) -> Iterator[tuple[str, int]]:
  """(computation, times) for each that the instruction runs; all branches of a choice."""
  opcode = _opcode(instruction)
  trips = _trips(instruction, program) if opcode == "while" else 1
  for one, several in _CALLED.findall(instruction):
    for name in (one or several).replace("%", "").replace(",", " ").split():
      if name in program:
        yield name, trips
  if opcode == "call" and (applied := _APPLIED.search(instruction)) and applied[1] in program:
    yield applied[1], 1


def _trips(loop: str, program: Mapping[str, list[str]]) -> int:
  """Iterations of a loop: the compiler's count, or the bound in its condition; else 1."""
  if known := _TRIPS.search(loop):
    return int(known[1])
  condition = _CONDITION.search(loop)
  lines = program.get(condition[1], []) if condition else []
  bounds = {int(bound[1]) for line in lines if (bound := _BOUND.search(line))}
  return bounds.pop() if len(bounds) == 1 else 1


def _opcode(instruction: str) -> str:
  found = _OPCODE.search(instruction)
  return found[1] if found else ""


def _collective(
  computation: str, instruction: str, times: int, mesh: Mapping[str, int]
) -> Collective | None:
  """The instruction as a Collective; None if it is none or involves a single device."""
  opcode = _opcode(instruction)
  kind = opcode.removesuffix("-start")
  if kind not in KINDS:
    return None
  axes = _axes(instruction, mesh)
  if axes == ():
    return None
  arrays, size = _arrays_and_bytes(instruction, opcode)
  if kind == "reduce-scatter" and opcode == kind:  # its HLO shape is the output only
    size *= math.prod(mesh.get(axis, 1) for axis in axes or ())
  if computation.startswith("all-reduce-scatter"):  # how a TPU fuses the two
    kind = "reduce-scatter"
  source = _SOURCE.search(instruction)
  where = source[1] if source else ""
  return Collective(kind, axes or ("?",), times * arrays, times * size, where)


def _arrays_and_bytes(instruction: str, opcode: str) -> tuple[int, int]:
  """Number and bytes of the arrays, for the larger of input and output.

  The shape of a "-start" instruction holds both input and output, except for an all-reduce.
  """
  shape = instruction[instruction.index(" = ") + 3 : instruction.index(f" {opcode}(")]
  if not opcode.endswith("-start") or opcode == "all-reduce-start":
    return len(_ARRAY.findall(shape)), _array_bytes(shape)
  before, after = _elements(shape)[:2]
  return len(_ARRAY.findall(after)), max(_array_bytes(before), _array_bytes(after))


def _elements(shape: str) -> list[str]:
  """The outermost elements of a tuple shape."""
  depth, start, elements = 0, 1, []
  for place, character in enumerate(shape):
    depth += (character in "([{") - (character in ")]}")
    if depth == 0 or (depth == 1 and character == ","):
      elements.append(shape[start:place])
      start = place + 1
  return elements


def _array_bytes(shape: str) -> int:
  """Bytes of all arrays in a shape."""
  total = 0
  for dtype, sizes in _ARRAY.findall(shape):
    bits = re.search(r"\d+", dtype)
    count = math.prod(int(size) for size in sizes.split(",") if size)
    total += math.ceil(count * (int(bits[0]) if bits else 8) / 8)
  return total


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
