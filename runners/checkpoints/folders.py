"""File names in a run's folder of checkpoints."""

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"
SET_ASIDE = ".unreadable"  # suffix of a checkpoint that was found damaged
REMOVED = "removed"  # subfolder of steps that are being deleted

_STEP = re.compile("0|[1-9][0-9]*")  # the only name of a step; int() accepts many more


def saved_steps(directory: Path) -> list[int]:
  """The steps in a folder of checkpoints, oldest first; none without a folder.

  Unfinished saves have no numeric name. The contents of numbered folders are not checked.
  """
  if not directory.is_dir():
    return []
  folders = [entry.name for entry in directory.iterdir() if entry.is_dir()]
  return sorted(int(name) for name in folders if is_step(name))


def is_step(name: str) -> bool:
  """Whether a checkpoint's folder may have this name."""
  return _STEP.fullmatch(name) is not None
