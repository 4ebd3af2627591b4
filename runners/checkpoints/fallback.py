"""Continues a run from its newest intact checkpoint, and sets damaged ones aside."""

import itertools
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from layers.errors import UserError
from layers.notices import note
from runners.array_names import named_arrays
from runners.checkpoints.damage import DamagedCheckpoint, listed
from runners.checkpoints.documents import RUN, Step
from runners.checkpoints.finiteness import non_finite
from runners.checkpoints.folders import REMOVED, SET_ASIDE, saved_steps
from runners.checkpoints.reading import open_step, restore
from runners.checkpoints.writing import remove
from runners.train_state import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax renames a save once it is complete


def restore_newest(
  directory: Path,
  abstract: TrainState,
  unpadded: Any = None,
  check: Callable[[dict[str, Any]], None] = lambda run: None,
  infinite: Callable[[], Collection[str]] = frozenset,
) -> tuple[TrainState, dict[str, Any]] | None:
  """The newest intact checkpoint, laid out as `abstract` says; None without any checkpoint.

  A damaged checkpoint is reported, skipped and renamed: its number must be free for the next
  save, and its bytes may still be of use. A checkpoint with values that are not finite (older
  versions saved such) counts as damaged. Remains of a killed save or removal are deleted.

  Args:
    directory: the run's checkpoints/; no other process writes to it.
    abstract, unpadded: see `restore`.
    check: called with the document RUN before the state is read; raises UserError to refuse.
    infinite: gives the names of arrays that may hold an infinity; called only if one does.

  Raises:
    UserError: `check` refuses, the arrays belong to another model, or every checkpoint is
      damaged (then nothing is changed).
  """
  steps, damaged = _open_all(directory)
  found = None
  for number in sorted(steps, reverse=True):
    step = steps[number]
    try:
      check(step.documents[RUN])
      state = restore(step, abstract, unpadded)
      _check_finite(step, state, infinite)
      found = number, state
      break
    except DamagedCheckpoint as error:
      damaged[number] = str(error)
  if found is None and damaged:
    reasons = "; ".join(f"step {number}: {damaged[number]}" for number in sorted(damaged))
    raise UserError(
      f"none of the checkpoints in {directory} is intact ({reasons}); restore one from a "
      "backup, or start in another workdir"
    )
  _clean(directory, damaged, found and found[0])
  if found is None:
    return None
  number, state = found
  if not steps[number].has_checksums:
    note(f"Checkpoint {number} was saved without checksums: its values are not verified.")
  return state, steps[number].documents[RUN]


def _check_finite(
  step: Step, state: TrainState, infinite: Callable[[], Collection[str]]
) -> None:
  noted = {name for name, array in step.arrays.items() if array.infinite}
  wrong, _ = non_finite(dict(named_arrays(state)), lambda: noted.union(infinite()))
  if wrong:
    raise DamagedCheckpoint(
      f"{len(wrong)} of its {len(step.arrays)} arrays are not finite ({listed(wrong)}): the "
      "run had diverged when it was saved"
    )


def _open_all(directory: Path) -> tuple[dict[int, Step], dict[int, str]]:
  """Steps whose JSON is intact; for each of the others, its damage."""
  steps, damaged = {}, {}
  for number in saved_steps(directory):
    try:
      steps[number] = open_step(directory / str(number))
    except DamagedCheckpoint as error:
      damaged[number] = str(error)
  return steps, damaged


def _clean(directory: Path, damaged: dict[int, str], continued: int | None) -> None:
  """Renames damaged checkpoints and deletes unfinished ones, with a note for each."""
  if jax.process_index() == 0:
    try:
      _tidy(directory, damaged, continued)
    except OSError as error:
      raise UserError(
        f"cannot set aside or remove what is damaged or unfinished in {directory}: "
        f"{error.strerror or error}; see to it, or choose another --workdir"
      ) from error
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("checkpoints cleaned")


def _tidy(directory: Path, damaged: dict[int, str], continued: int | None) -> None:
  for number, reason in sorted(damaged.items()):
    aside = _free(directory / f"{number}{SET_ASIDE}")
    (directory / str(number)).rename(aside)
    note(
      f"Checkpoint {number} is damaged: {reason}. The run continues from step {continued}; "
      f"it is kept as {aside.name}."
    )
  remove(directory / REMOVED)
  for folder in directory.glob(f"[0-9]*{_UNFINISHED}*"):
    remove(folder)
    step = folder.name.split(".")[0]
    note(f"The save of step {step} was cut off, and what it left is removed.")


def _free(path: Path) -> Path:
  """`path`, with a number appended if the name is taken."""
  names = (path.with_name(f"{path.name}.{n}") for n in itertools.count(2))
  return next(name for name in itertools.chain([path], names) if not os.path.lexists(name))
