"""The kernels of a compiled program: how often each runs, its bytes and FLOPs, and its place.

Every instruction that runs by itself is one: a fusion, a product, a call of a library, a copy.
Loops count as often as they run, and a choice by its dearest branch, or by its cheapest.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from runners.devices.collectives import KINDS as EXCHANGES
from runners.devices.hlo import Array, Instruction, Program
from runners.devices.hlo_flops import flops, flops_within, target
from runners.devices.kernel_flops import KernelFlops
from runners.devices.stacks import Stacks
from runners.devices.touches import FREE, Memory, Touches

Kind = Literal["products", "elementwise", "reductions", "copies", "exchanges", "choices"]

_REDUCES = frozenset({"reduce", "reduce-window", "sort", "scatter", "select-and-scatter"})
_MOVES = frozenset(
  "parameter constant tuple get-tuple-element bitcast reshape copy copy-start transpose slice "
  "dynamic-slice dynamic-update-slice concatenate pad broadcast reverse gather".split()
)
_FREE_CALLS = (
  *("Sharding", "AllocateBuffer", "annotate_device_placement"),
  "AssumeGatherIndicesInBound",
)
_OF_A_LOOP = re.compile(r"/body(/jit\([^)]*\))?/[^/]+$|^$")
_VMEM = "S(1)"  # how a TPU's layouts mark the memory on the chip


@dataclasses.dataclass(frozen=True)
class Kernel:
  """One kernel of a step, on one device.

  Attributes:
    name: the compiler's.
    kind: what it does; what is fused with a product counts as one. A choice between programs
      is no kernel, but a GPU's host has to read which it is before it goes on.
    times: that it runs in a step.
    flops, bytes: of all times; bytes read and written.
    kept: those of the bytes that a loop stacks for a later one, or that this reads again.
    results: those of the bytes that are written and not `kept`.
    source: the layers and operations that its last part came from.
    place: the line of code; "" if unknown.
  """

  name: str
  kind: Kind
  times: int
  flops: int
  bytes: int
  kept: int
  results: int
  source: str
  place: str


def kernels(
  program: Program,
  platform: str,
  pallas: Collection[KernelFlops] = (),
  *,
  cheapest: bool = False,
) -> list[Kernel]:
  """The kernels of a step, in the program's order.

  Args:
    program: compiled.
    platform: cpu, gpu or tpu.
    pallas: the Pallas kernels of its jaxpr.
    cheapest: of a choice take the branch with the fewest bytes, not with the most.
  """
  memory = Memory(program, _VMEM if platform == "tpu" else None)
  walk = _Walk(program, memory, pallas, min if cheapest else max)
  if program.entry is None:
    return []
  found = list(walk.run(program.entry, 1))
  stacks = Stacks(program)
  reads = {
    (kernel.computation, touch.name)
    for kernel in found
    for touch in kernel.touches.reads
    if touch.is_slice and kernel.times > 1
  }
  stacks.read_back(reads)
  return [walk.finished(kernel, stacks) for kernel in found]


class _Found(NamedTuple):
  """A kernel, before it is known which arrays are stacks."""

  instruction: Instruction
  computation: str
  times: int
  flops: int
  touches: Touches


class _Walk:
  """A walk through a program as it runs."""

  def __init__(
    self,
    program: Program,
    memory: Memory,
    pallas: Collection[KernelFlops],
    choose: Callable[..., list[_Found]],
  ):
    self._program, self._memory, self._pallas = program, memory, pallas
    self._choose = choose
    self._flops_within = functools.cache(lambda name: flops_within(program, name, pallas))
    self._opcodes_within = functools.cache(self._opcodes)

  def run(self, computation: str, times: int) -> Iterator[_Found]:
    """The kernels of a computation and of those that it calls."""
    body = self._program.computations.get(computation, ())
    shapes = {instruction.name: instruction.arrays for instruction in body}
    for instruction in body:
      opcode = instruction.opcode
      if opcode in ("while", "call", "async-start"):
        for called, trips in self._program.calls(instruction):
          yield from self.run(called, times * trips)
      elif opcode == "conditional":
        yield _Found(instruction, computation, times, 0, Touches((), ()))
        yield from self._chosen(instruction, times)
      elif opcode not in FREE and not opcode.endswith(("-done", "-update")):
        if target(instruction) not in _FREE_CALLS:
          yield self._found(instruction, computation, times, shapes)

  def _chosen(self, choice: Instruction, times: int) -> Iterator[_Found]:
    branches = [list(self.run(called, times)) for called, _ in self._program.calls(choice)]
    by_bytes = lambda found: sum(map(_bytes, found))
    yield from self._choose(branches, key=by_bytes, default=[])

  def _found(
    self,
    instruction: Instruction,
    computation: str,
    times: int,
    shapes: Mapping[str, Sequence[Array]],
  ) -> _Found:
    touches = self._memory.touches(instruction, shapes)
    if instruction.opcode == "fusion":
      count = sum(map(self._flops_within, instruction.called()))
    else:
      count = flops(instruction, shapes, self._pallas)
    return _Found(instruction, computation, times, times * count, touches)

  def finished(self, found: _Found, stacks: Stacks) -> Kernel:
    """A kernel with its kind, and with its bytes apart that stacks take."""
    instruction, place, times = found.instruction, found.computation, found.times
    kept_reads = [
      touch.bytes
      for touch in found.touches.reads
      if touch.is_slice and stacks.is_kept(place, touch.name)
    ]
    kept_writes = [
      touch.bytes
      for touch in found.touches.writes
      if touch.is_slice and stacks.is_stacked(place, touch.name, touch.index)
    ]
    written = sum(touch.bytes for touch in found.touches.writes)
    kind = self._kind(found)
    return Kernel(
      name=instruction.name,
      kind=kind,
      times=times,
      flops=found.flops,
      bytes=0 if kind == "exchanges" else _bytes(found),
      kept=times * (sum(kept_reads) + sum(kept_writes)),
      results=times * (written - sum(kept_writes)),
      source=self._source(instruction),
      place=self._program.place(instruction),
    )

  def _source(self, instruction: Instruction) -> str:
    """The instruction's own, or where that names only a loop the last fused with it.

    Slices that a loop cuts or stacks name no layer; what they are made of does.
    """
    own = instruction.source
    if instruction.opcode != "fusion" or not _OF_A_LOOP.search(own):
      return own
    fused = (
      each.source
      for name in instruction.called()
      for each in reversed(self._program.computations.get(name, ()))
    )
    return next((source for source in fused if not _OF_A_LOOP.search(source)), own)

  def _kind(self, found: _Found) -> Kind:
    opcodes = self._opcodes_of(found.instruction)
    if "conditional" in opcodes:
      return "choices"
    if any(opcode.removesuffix("-start") in EXCHANGES for opcode in opcodes):
      return "exchanges"
    if found.flops:
      return "products"
    if opcodes & _REDUCES:
      return "reductions"
    return "copies" if opcodes <= _MOVES else "elementwise"

  def _opcodes_of(self, instruction: Instruction) -> frozenset[str]:
    if instruction.opcode != "fusion":
      return frozenset([instruction.opcode])
    return frozenset().union(*map(self._opcodes_within, instruction.called()))

  def _opcodes(self, computation: str) -> frozenset[str]:
    """What a fused computation does to arrays; what it does to an index does not count."""
    found = [frozenset[str]()]
    for instruction in self._program.computations.get(computation, ()):
      if instruction.opcode == "fusion":
        found.append(self._opcodes_of(instruction))
      elif instruction.opcode in _REDUCES or any(each.size > 1 for each in instruction.arrays):
        found.append(frozenset([instruction.opcode]))
    return frozenset().union(*found)


def _bytes(found: _Found) -> int:
  touches = (*found.touches.reads, *found.touches.writes)
  return found.times * sum(touch.bytes for touch in touches)
