"""The bytes of memory that an instruction of a compiled program reads and writes.

What is fused stays in registers: a fusion reads its operands and writes its results. A slice
counts alone, not the array it is cut from or put into, however deep it stands in a fusion.
"""

import collections
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from runners.devices.hlo import Array, Instruction, Program
from runners.devices.hlo_flops import target

# They name or regroup memory.
FREE = frozenset(
  "parameter constant tuple get-tuple-element bitcast after-all opt-barrier domain "
  "partition-id replica-id add-dependency rng-get-and-update-state".split()
)
_SLICES = ("dynamic-slice", "slice", "gather")
# Which operand holds the new elements; the first is the array that they change.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
_RENAMES = ("bitcast", "reshape")
# Each element of the result comes from the element at its own place of one operand.
_ONE_TO_ONE = ("bitcast", "reshape", "copy", "convert", "transpose", "negate")
# A library's last result may be its workspace.
_WITH_WORKSPACE = ("__cudnn$", "__cublas$")


class Touch(NamedTuple):
  """One array that an instruction reads or writes.

  Attributes:
    name: the operand, or the instruction itself.
    index: of the operand, or of the array in the result.
    bytes: that pass through memory.
    is_slice: whether they are a part of a larger array, at a place chosen at run time.
  """

  name: str
  index: int
  bytes: int
  is_slice: bool = False


class Touches(NamedTuple):
  """All arrays that an instruction reads and writes, once."""

  reads: Sequence[Touch]
  writes: Sequence[Touch]


class Memory:
  """Counts the bytes of a program's instructions.

  Args:
    program: compiled.
    on_chip: the memory space, as layouts write it, whose arrays do not pass through memory.
  """

  def __init__(self, program: Program, on_chip: str | None = None):
    self._program, self._on_chip = program, on_chip
    self._bodies: dict[str, _Body] = {}

  def touches(self, instruction: Instruction, shapes: Mapping[str, Sequence[Array]]) -> Touches:
    """What an instruction outside of fusions touches.

    Args:
      instruction: any that runs as a kernel.
      shapes: name -> arrays of each of its operands.
    """
    results = self._results(instruction)
    names = instruction.operands
    operands = [
      Touch(name, index, sum(self._bytes(array) for array in shapes.get(name, ())))
      for index, name in enumerate(names)
    ]
    opcode = instruction.opcode
    if opcode == "fusion":
      return self._fusion(instruction, operands, results)
    if opcode in _SLICES:
      return Touches([_part(operands[0], results[0].bytes), *operands[1:]], results)
    if opcode == "dynamic-update-slice":
      return Touches([operands[1]], [_part(results[0], operands[1].bytes)])
    if opcode == "scatter":
      return _scattered(operands, results)
    return Touches(operands, results)

  def _results(self, instruction: Instruction) -> list[Touch]:
    arrays = list(instruction.arrays)
    called = target(instruction)
    if called.startswith(_WITH_WORKSPACE) and arrays and arrays[-1].dtype in ("u8", "s8"):
      del arrays[-1]
    if instruction.opcode == "copy-start":  # its operand stands in its result too
      del arrays[1:]
    pairs = enumerate(arrays)
    return [Touch(instruction.name, index, self._bytes(array)) for index, array in pairs]

  def _bytes(self, array: Array) -> int:
    return 0 if self._on_chip and self._on_chip in array.layout else array.bytes

  def _fusion(
    self, call: Instruction, operands: Sequence[Touch], results: Sequence[Touch]
  ) -> Touches:
    body = self._body(call)
    return Touches(
      [_in_part(operand, body.parts_read.get(operand.index)) for operand in operands],
      [_in_part(result, body.parts_written.get(result.index)) for result in results],
    )

  def _body(self, call: Instruction) -> "_Body":
    name = call.called()[0]
    if name not in self._bodies:
      self._bodies[name] = _Body(self._program.computations.get(name, ()), self._body)
    return self._bodies[name]


class _Body:
  """A fused computation, asked which part of each array its slices touch.

  Args:
    instructions: its own.
    body_of: the same of a fusion within.
  """

  def __init__(
    self, instructions: Sequence[Instruction], body_of: "Callable[[Instruction], _Body]"
  ):
    self._body_of = body_of
    self._made = {instruction.name: instruction for instruction in instructions}
    self._users = collections.defaultdict[str, list[tuple[Instruction, int]]](list)
    for instruction in instructions:
      for index, name in enumerate(instruction.operands):
        self._users[name].append((instruction, index))

  @functools.cached_property
  def parts_read(self) -> dict[int, float]:
    """Parameter -> the part of it that is read, where that is less than all."""
    parts = {}
    for instruction in self._made.values():
      if instruction.opcode == "parameter" and (part := self._part_read(instruction)) < 1:
        number = int(instruction.text.split("parameter(")[1].split(")")[0])
        parts[number] = part
    return parts

  @functools.cached_property
  def parts_written(self) -> dict[int, float]:
    """Result -> the part of it that is written, where that is less than all."""
    root = next((made for made in self._made.values() if made.is_root), None)
    if root is None:  # a computation that the text does not hold
      return {}
    names = root.operands if root.opcode == "tuple" else (root.name,)
    parts = ((index, self._part_written(self._made[name])) for index, name in enumerate(names))
    return {index: part for index, part in parts if part < 1}

  def _part_read(self, array: Instruction) -> float:
    size, total = array.arrays[0].size, 0.0
    for user, index in self._users[array.name]:
      if user.opcode in _SLICES and index == 0:
        total += user.arrays[0].size / max(1, size)
      elif user.opcode in _UPDATES and index == 0 and self._is_result(user):
        total += 0 if user.opcode == "dynamic-update-slice" else self._part_written(user)
      elif user.opcode in _ONE_TO_ONE:
        total += self._part_read(user)
      elif user.opcode == "fusion":
        total += self._body_of(user).parts_read.get(index, 1.0)
      elif user.opcode != "tuple":
        return 1.0
    return total

  def _part_written(self, result: Instruction) -> float:
    """An update changes its part alone, and the rest of the array stays where it is."""
    while result.opcode in _RENAMES:
      result = self._made[result.operands[0]]
    if result.opcode == "fusion":
      return self._body_of(result).parts_written.get(0, 1.0)
    if result.opcode not in _UPDATES:
      return 1.0
    update = self._made[result.operands[_UPDATES[result.opcode]]]
    return update.arrays[0].size / max(1, result.arrays[0].size)

  def _is_result(self, instruction: Instruction) -> bool:
    """Whether it is what the fusion gives back, and so can be made in its operand's memory."""
    if instruction.is_root:
      return True
    through = (*_RENAMES, "tuple")
    return any(
      user.opcode in through and self._is_result(user)
      for user, _ in self._users[instruction.name]
    )


def _in_part(touch: Touch, part: float | None) -> Touch:
  return touch if part is None else _part(touch, math.ceil(part * touch.bytes))


def _part(touch: Touch, size: int) -> Touch:
  return touch._replace(bytes=min(size, touch.bytes), is_slice=size < touch.bytes)


def _scattered(operands: Sequence[Touch], results: Sequence[Touch]) -> Touches:
  """Rows are read, changed and written where they are; the rest of each array stays."""
  count = len(results)
  indices, updates = operands[count], operands[count + 1 :]
  changed = [_part(each, update.bytes) for each, update in zip(results, updates, strict=True)]
  before = [
    _part(each, update.bytes) for each, update in zip(operands[:count], updates, strict=True)
  ]
  return Touches([*before, indices, *updates], changed)
