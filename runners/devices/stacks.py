"""The stacks of a compiled program: one loop fills them slice by slice, a later one reads them.

A scan over layers stacks what the backward pass needs, and the backward scan reads it back.
"""

from collections.abc import Iterable, Mapping

from runners.devices.hlo import Instruction, Program

# Where an array began: a loop and the place in its result, or something else and 0.
_Origin = tuple[str, int]
_SAME = ("bitcast", "copy", "reshape", "opt-barrier", "convert")


class Stacks:
  """The stacks of a program.

  Args:
    program: compiled.
  """

  def __init__(self, program: Program):
    self._made: Mapping[str, Mapping[str, Instruction]] = {
      name: {instruction.name: instruction for instruction in body}
      for name, body in program.computations.items()
    }
    # Body of a loop -> the computation that the loop stands in, and the loop.
    self._loops: dict[str, tuple[str, Instruction]] = {}
    for name, body in program.computations.items():
      for instruction in body:
        if instruction.opcode == "while":
          for inner, _ in program.calls(instruction):
            self._loops[inner] = name, instruction
    self._read: set[_Origin] = set()

  def read_back(self, slices: Iterable[tuple[str, str]]) -> None:
    """Learns which arrays loops read slice by slice, each as (computation, operand)."""
    found = (self._origin(computation, name, 0) for computation, name in slices)
    self._read = {origin for origin in found if origin is not None}

  def is_kept(self, computation: str, operand: str) -> bool:
    """Whether an operand that is read slice by slice came out of an earlier loop."""
    return self._origin(computation, operand, 0) is not None

  def is_stacked(self, computation: str, name: str, index: int) -> bool:
    """Whether the loop that makes an instruction's array hands it to one that reads it back."""
    if computation not in self._loops:
      return False
    _, loop = self._loops[computation]
    return any(
      (loop.name, place) in self._read for place in self._places(computation, name, index)
    )

  def _places(self, computation: str, name: str, index: int) -> Iterable[int]:
    """Where in the result of a loop's body the array stands."""
    made = self._made[computation]
    (root,) = (instruction for instruction in made.values() if instruction.is_root)
    for place, operand in enumerate(root.operands):
      while operand in made and made[operand].opcode in _SAME:
        operand = made[operand].operands[0]
      found = made.get(operand)
      if found is None:
        continue
      if found.opcode == "get-tuple-element":
        if found.operands[0] == name and _index(found) == index:
          yield place
      elif found.name == name:
        yield place

  def _origin(self, computation: str, name: str, index: int) -> _Origin | None:
    """The loop that an array came out of, and its place there; None: no loop made it."""
    made = self._made.get(computation, {})
    instruction = made.get(name)
    while instruction is not None:
      if instruction.opcode == "while":
        return instruction.name, index
      if instruction.opcode == "get-tuple-element":
        index = _index(instruction)
      elif instruction.opcode == "tuple":
        instruction, index = made.get(instruction.operands[index]), 0
        continue
      elif instruction.opcode == "parameter":
        if computation not in self._loops:
          return None
        computation, loop = self._loops[computation]
        return self._origin(computation, loop.operands[0], index)
      elif instruction.opcode not in _SAME:
        return None
      instruction = made.get(instruction.operands[0])
    return None


def _index(element: Instruction) -> int:
  return int(element.text.split(", index=")[1].split(",")[0].split("}")[0])
