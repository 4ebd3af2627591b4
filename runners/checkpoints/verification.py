"""`runner ckpt verify`: whether checkpoints are intact and finite, without the model's code."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from input_pipelines.progress import Progress
from runners.checkpoints.damage import DamagedCheckpoint, listed
from runners.checkpoints.documents import Step
from runners.checkpoints.finiteness import count_non_finite
from runners.checkpoints.listing import find_step_folders
from runners.checkpoints.reading import changed_arrays, in_portions, open_step, read_arrays


def verify(path: str) -> Iterator[tuple[str, bool]]:
  """A line for each checkpoint under `path`, and whether it is intact and finite.

  Reads all arrays, in portions: memory holds no more than 64 MiB or the largest array.

  Args:
    path: a run, its folder of checkpoints, or the folder of one checkpoint.

  Raises:
    UserError: there is no checkpoint.
  """
  folders = find_step_folders(path)
  width = max(len(folder.name) for folder in folders)
  for folder in folders:
    found, is_intact = _verify(folder)
    if not is_intact and not folder.exists():
      continue  # a run in progress has removed it meanwhile
    yield f"step {folder.name:>{width}}  {found}", is_intact


def _verify(folder: Path) -> tuple[str, bool]:
  try:
    step = open_step(folder)
  except DamagedCheckpoint as error:
    return f"damaged: {error}", False
  damages: list[str] = []
  infinite: list[str] = []
  with Progress(f"verifying step {folder.name}", len(step.arrays), "arrays") as progress:
    for names in in_portions(step.arrays):
      for portion in _readable(step, names):
        if isinstance(portion, str):
          damages.append(portion)
        else:
          damages += [f"{name} is not what was saved" for name in changed_arrays(step, portion)]
          infinite += _non_finite(step, portion)
      progress.advance(len(names))
  found = [f"damaged: {listed(damages, '; ')}"] if damages else []
  found += [f"not finite: {listed(infinite)}"] if infinite else []
  if found:
    return "; ".join(found), False
  if not step.has_checksums:
    return f"readable: {len(step.arrays)} arrays, saved without checksums", True
  return f"intact: {len(step.arrays)} arrays", True


def _non_finite(step: Step, arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Arrays with a NaN or a forbidden infinity, each with the number of such values."""
  counts = {name: count_non_finite(x) for name, x in arrays.items()}
  return [
    f"{name} ({count:,} of {arrays[name].size:,} values)"
    for name, count in counts.items()
    if count and not (step.arrays[name].infinite and np.isinf(arrays[name]).all())
  ]


def _readable(step: Step, names: list[str]) -> Iterator[dict[str, np.ndarray] | str]:
  """The readable arrays, and for each unreadable one the reason."""
  try:
    yield read_arrays(step, names)
  except DamagedCheckpoint as error:
    if len(names) == 1:
      yield str(error)
    else:  # which one is it?
      for name in names:
        yield from _readable(step, [name])
