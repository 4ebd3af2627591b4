"""`runner ckpt verify`: whether checkpoints are what was saved, without the model's code."""

from collections.abc import Iterator
from pathlib import Path

from input_pipelines.progress import Progress
from runners.checkpoint_listing import find_step_folders
from runners.checkpoint_reading import (
  DamagedCheckpoint,
  Step,
  changed_arrays,
  in_portions,
  listed,
  open_step,
  read_arrays,
)


def verify(path: str) -> Iterator[tuple[str, bool]]:
  """A line for each checkpoint under `path`, and whether it is intact.

  All arrays are read, in portions: what is held in memory is no more than the largest array.

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
      continue  # a run that goes on has removed it meanwhile
    yield f"step {folder.name:>{width}}  {found}", is_intact


def _verify(folder: Path) -> tuple[str, bool]:
  try:
    step = open_step(folder)
  except DamagedCheckpoint as error:
    return f"damaged: {error}", False
  with Progress(f"verifying step {folder.name}", len(step.arrays), "arrays") as progress:
    damages = list(_damages(step, progress))
  if damages:
    return f"damaged: {listed(damages, '; ')}", False
  if not step.has_checksums:
    return f"readable: {len(step.arrays)} arrays, saved without checksums", True
  return f"intact: {len(step.arrays)} arrays", True


def _damages(step: Step, progress: Progress) -> Iterator[str]:
  """What is wrong with each array that is not what was saved."""
  for names in in_portions(step.arrays):
    for portion in _readable(step, names):
      if isinstance(portion, str):
        yield portion
      else:
        yield from (f"{name} is not what was saved" for name in changed_arrays(step, portion))
    progress.advance(len(names))


def _readable(step: Step, names: list[str]) -> Iterator[dict | str]:
  """The arrays that can be read; for each that cannot, why."""
  try:
    yield read_arrays(step, names)
  except DamagedCheckpoint as error:
    if len(names) == 1:
      yield str(error)
    else:  # which one is it?
      for name in names:
        yield from _readable(step, [name])
