"""`runner ckpt diff A B`: in which arrays two checkpoints differ, without the model's code."""

import math

import numpy as np

from runners.checkpoints.inventory import SavedArray
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import (
  DamagedCheckpoint,
  Step,
  changed_arrays,
  in_portions,
  listed,
  open_step,
  read_arrays,
)

_VALUES_AT_ONCE = 2**20


def difference(a: str, b: str) -> str:
  """A line for each array that differs, the largest relative difference first.

  Two portions of arrays are in memory at a time, each no more than the largest array.

  Args:
    a, b: runs (their newest checkpoints are compared) or folders of single checkpoints.

  Raises:
    UserError: there is no checkpoint, or one is damaged.
  """
  one, other = _open(a), _open(b)
  common = [name for name in one.arrays if name in other.arrays]
  alike = {name: one.arrays[name] for name in common if _alike(one, other, name)}
  lines = [f"A  {one.folder}", f"B  {other.folder}"]
  lines += [
    f"only in {label}: {name}  {_described(step.arrays[name])}"
    for label, step, rest in (("A", one, other), ("B", other, one))
    for name in step.arrays
    if name not in rest.arrays
  ]
  lines += [
    f"{name}: {_described(one.arrays[name])} in A, {_described(other.arrays[name])} in B"
    for name in common
    if name not in alike
  ]
  rows = _differing(one, other, alike)
  lines += _table(rows)
  equal = len(alike) - len(rows)
  return "\n".join([*lines, f"{equal} of {len(common)} arrays that both have are equal"])


def _open(path: str) -> Step:
  folder = find_step_folder(path)
  try:
    return open_step(folder)
  except DamagedCheckpoint as error:
    raise DamagedCheckpoint(f"the checkpoint {folder} is damaged: {error}") from error


def _alike(one: Step, other: Step, name: str) -> bool:
  a, b = one.arrays[name], other.arrays[name]
  return (a.shape, a.dtype) == (b.shape, b.dtype)


def _described(array: SavedArray) -> str:
  return f"{array.dtype} {'x'.join(map(str, array.shape)) or 'scalar'}"


def _differing(
  one: Step, other: Step, alike: dict[str, SavedArray]
) -> list[tuple[float, float, str]]:
  """(relative difference, largest difference, name) of arrays that differ, largest first."""
  rows = []
  for names in in_portions(alike):
    first, second = _verified(one, names), _verified(other, names)
    for name in names:
      a, b = first[name], second[name]
      if _bytes(a) != _bytes(b):
        rows.append((*_measured(a, b), name))
  return sorted(rows, key=lambda row: (-row[0] if row[0] == row[0] else -math.inf, row[2]))


def _verified(step: Step, names: list[str]) -> dict[str, np.ndarray]:
  arrays = read_arrays(step, names)
  if changed := changed_arrays(step, arrays):
    raise DamagedCheckpoint(
      f"the checkpoint {step.folder} is damaged: not what was saved: {listed(changed)}"
    )
  return arrays


def _bytes(x: np.ndarray) -> memoryview:
  return memoryview(x.reshape(-1).view(np.uint8).data)


def _measured(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
  """|a - b| / |a| in the Euclidean norm, and the largest |a - b| of any element."""
  largest = squares = norm = 0.0
  a, b = a.reshape(-1), b.reshape(-1)
  for start in range(0, a.size, _VALUES_AT_ONCE):
    x, y = (z[start : start + _VALUES_AT_ONCE].astype(np.float64) for z in (a, b))
    largest = float(np.maximum(largest, np.abs(x - y).max()))  # NaN stays
    squares += float(np.square(x - y).sum())
    norm += float(np.square(x).sum())
  relative = math.sqrt(squares / norm) if norm else math.inf
  return relative, largest


def _table(rows: list[tuple[float, float, str]]) -> list[str]:
  if not rows:
    return []
  width = max(len(name) for *_, name in rows)
  lines = [f"{'array':<{width}}  {'|A-B| / |A|':>11}  {'max |A-B|':>9}"]
  return [
    *lines,
    *(
      f"{name:<{width}}  {relative:>11.3g}  {largest:>9.3g}" for relative, largest, name in rows
    ),
  ]
