"""The text of a compiled program (HLO) as computations of instructions that run so often."""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.-]+) = ")
_OPCODE = re.compile(r"\s([a-z][a-z0-9-]*)\(")
_OPERANDS = re.compile(r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*")
_NAME = re.compile(r"%([\w.-]+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
  r"(?:body|calls|true_computation|false_computation)=%([\w.-]+)"
  r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_APPLIED = re.compile(r"to_apply=%([\w.-]+)")
_CONDITION = re.compile(r"condition=%([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_FILE = re.compile(r'source_file="([^"]*)" source_line=(\d+)')


class Array(NamedTuple):
  """One array of a shape.

  Attributes:
    dtype: as HLO writes it, such as bf16.
    dims: its sizes.
    layout: the text within braces, or "".
  """

  dtype: str
  dims: tuple[int, ...]
  layout: str = ""

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.dims)

  @property
  def itemsize(self) -> float:
    """Bytes of an element, a fraction for types of less than 8 bits."""
    bits = re.search(r"\d+", self.dtype)
    return (int(bits[0]) if bits else 8) / 8

  @property
  def bytes(self) -> int:
    return math.ceil(self.size * self.itemsize)


class Instruction(NamedTuple):
  """One instruction.

  Attributes:
    name: unique within its computation.
    opcode: such as fusion.
    shape: of the result, as text; a tuple's is in parentheses.
    operands: names.
    text: the whole, for its attributes.
    is_root: whether its result is that of its computation.
  """

  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  text: str
  is_root: bool

  @property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays of the result."""
    return arrays(self.shape)

  @property
  def source(self) -> str:
    """The layers and operations it came from; "" if unknown."""
    found = _SOURCE.search(self.text)
    return found[1] if found else ""

  def called(self) -> list[str]:
    """The computations that it runs; for a loop its body, for a choice every branch."""
    names = []
    for one, several in _CALLED.findall(self.text):
      names += (one or several).replace("%", "").replace(",", " ").split()
    if self.opcode == "call" and (applied := _APPLIED.search(self.text)):
      names.append(applied[1])
    return names


class Program:
  """A compiled program.

  Attributes:
    computations: name -> instructions, each after its operands.
    entry: name of the computation that runs first; None in a text without one.
  """

  def __init__(self, hlo: str):
    """Args: hlo: `compiled.as_text()`."""
    self.computations = _computations(hlo)
    entry = re.search(r"^ENTRY %?([\w.-]+)", hlo, re.MULTILINE)
    self.entry = entry[1] if entry else None
    self._hlo = hlo

  def calls(self, instruction: Instruction) -> Iterator[tuple[str, int]]:
    """(computation, times) for each that the instruction runs; all branches of a choice."""
    trips = self.trips(instruction) if instruction.opcode == "while" else 1
    for name in instruction.called():
      if name in self.computations:
        yield name, trips

  def trips(self, loop: Instruction) -> int:
    """Iterations of a loop: the compiler's count, or the bound in its condition; else 1."""
    if known := _TRIPS.search(loop.text):
      return int(known[1])
    condition = _CONDITION.search(loop.text)
    lines = self.computations.get(condition[1], ()) if condition else ()
    bounds = {int(bound[1]) for line in lines if (bound := _BOUND.search(line.text))}
    return bounds.pop() if len(bounds) == 1 else 1

  def times(self, weigh: Callable[[Instruction], int] = lambda _: 0) -> dict[str, int]:
    """Computation -> how often it runs. A loop with an unknown count counts once.

    Args:
      weigh: weight of an instruction; of a choice the branch runs that weighs most.
    """

    def taken(instruction: Instruction) -> list[tuple[str, int]]:
      found = [*self.calls(instruction)]
      if instruction.opcode != "conditional":
        return found
      return [max(found, key=lambda call: weight(call[0]))] if found else []

    @functools.cache
    def weight(name: str) -> int:
      body = self.computations[name]
      inside = sum(trips * weight(called) for each in body for called, trips in taken(each))
      return inside + sum(map(weigh, body))

    calls = {
      name: [call for instruction in body for call in taken(instruction)]
      for name, body in self.computations.items()
    }
    times = dict.fromkeys(self.computations, 0)

    def run(name: str, count: int) -> None:
      times[name] += count
      for called, trips in calls[name]:
        run(called, count * trips)

    if self.entry:
      run(self.entry, 1)
    return times

  def place(self, instruction: Instruction) -> str:
    """The line of code that it came from, as "folder/file.py:12"; "" if unknown."""
    if file := _FILE.search(instruction.text):
      return _short(file[1], file[2])
    frame = _FRAME.search(instruction.text)
    return self._frames.get(frame[1], "") if frame else ""

  @functools.cached_property
  def _frames(self) -> dict[str, str]:
    """Stack frame -> its innermost line of code, from the tables at the head of the text."""
    head = self._hlo[: self._hlo.find("\n%")]
    files = dict(re.findall(r'^(\d+) "([^"]*)"$', _table(head, "FileNames"), re.MULTILINE))
    locations = {
      number: _short(files.get(file, ""), line)
      for number, file, line in re.findall(
        r"^(\d+) \{file_name_id=(\d+) .*?line=(\d+)",
        _table(head, "FileLocations"),
        re.MULTILINE,
      )
    }
    frames = re.findall(
      r"^(\d+) \{file_location_id=(\d+)", _table(head, "StackFrames"), re.MULTILINE
    )
    return {frame: locations.get(location, "") for frame, location in frames}


def arrays(shape: str) -> tuple[Array, ...]:
  """The arrays of a shape, in order."""
  return tuple(
    Array(dtype, tuple(int(size) for size in sizes.split(",") if size), layout)
    for dtype, sizes, layout in _ARRAY.findall(shape)
  )


def elements(shape: str) -> list[str]:
  """The outermost elements of a tuple shape."""
  depth, start, found = 0, 1, []
  for place, character in enumerate(shape):
    depth += (character in "([{") - (character in ")]}")
    if depth == 0 or (depth == 1 and character == ","):
      found.append(shape[start:place])
      start = place + 1
  return found


def _computations(hlo: str) -> Mapping[str, Sequence[Instruction]]:
  """Name -> instructions; one instruction may be several lines of text."""
  program: dict[str, list[str]] = {}
  current: list[str] = []
  for line in hlo.splitlines():
    if start := _COMPUTATION.match(line):
      current = program[start[1]] = []
    elif _INSTRUCTION.match(line):
      current.append(line)
    elif line == "}":
      current = []
    elif current:
      current[-1] += line
  return {name: [*map(_instruction, lines)] for name, lines in program.items()}


def _instruction(text: str) -> Instruction:
  head = _INSTRUCTION.match(text)
  assert head is not None
  opcode = _OPCODE.search(text, head.end() - 1)
  if opcode is None:
    return Instruction(head[2], "", text[head.end() :], (), text, bool(head[1]))
  operands: Sequence[str] = ()
  if opcode[1] not in ("constant", "parameter"):
    inside = _OPERANDS.match(text, opcode.end())
    operands = _NAME.findall(inside[0]) if inside else ()
  shape = text[head.end() : opcode.start()]
  return Instruction(head[2], opcode[1], shape, tuple(operands), text, bool(head[1]))


def _table(head: str, name: str) -> str:
  """The lines of a table at the head of the text."""
  found = re.search(rf"^{name}\n((?:\d+ .*\n)*)", head, re.MULTILINE)
  return found[1] if found else ""


def _short(file: str, line: str) -> str:
  """A file by its last folder and name, with the line."""
  return f"{'/'.join(file.split('/')[-2:])}:{line}" if file else ""
