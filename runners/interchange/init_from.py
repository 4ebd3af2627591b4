"""The field init_from: where a fresh run begins.

--set=init_from=runs/before     or runs/before/checkpoints/100, or a Hugging Face folder
--set=init_from='@InitFrom(path="runs/before", everything=True)'
--set=init_from='@InitFrom(path="runs/before", rules=[("^trunk/", "stack/")], strict=False)'
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import fiddle as fdl

from layers.errors import UserError
from runners.checkpoints.listing import find_step_folder
from runners.interchange.hugging_face_config import is_folder_of_theirs


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
  """Where a fresh run begins, and how parameters are renamed.

  Attributes:
    path: a run (its newest checkpoint), the folder of one checkpoint, or a Hugging Face folder.
    everything: also take moments, step, random numbers, data position and callbacks: the run
      continues the other one, in its own workdir and with its own config. Otherwise only
      parameters are taken, and the run begins at step 0.
    rules: (regular expression, replacement) pairs, applied in order to each parameter's name
      in the checkpoint; the result is its name here. `runner ckpt show` prints the names (drop
      "params/"). A parameter's moments are renamed with it.
    strict: refuse parameters that are missing in the checkpoint or unused here. Otherwise
      missing ones are initialised afresh. A different shape is always refused; to leave such
      an array out, rename it by a rule.
  """

  path: str
  everything: bool = False
  rules: Sequence[tuple[str, str]] = ()
  strict: bool = True


def source_of(value: Any) -> InitFrom:
  """The value of the field init_from (a path, a config or an InitFrom) as an InitFrom."""
  if isinstance(value, fdl.Buildable):
    value = fdl.build(value)
  return value if isinstance(value, InitFrom) else InitFrom(path=value)


def check_source(value: Any) -> None:
  """Raises UserError unless a run can begin from the path."""
  source = source_of(value)
  for pattern, replacement in source.rules:
    try:
      re.sub(pattern, replacement, "")
    except (re.error, IndexError) as error:
      rule = f"({pattern!r}, {replacement!r})"
      raise UserError(f"init_from: {rule} is no rule of renaming: {error}") from error
  if not is_folder_of_theirs(source.path):
    try:
      find_step_folder(source.path)
    except UserError as error:
      raise UserError(
        f"init_from: {error}; train that run first, set init_from to where its parameters are, "
        "or --set=init_from=None"
      ) from error
  elif source.rules or source.everything or not source.strict:
    raise UserError(
      f"init_from: {source.path} is a Hugging Face folder: it has parameters alone, of known "
      "names; it takes no rules, no everything=True and no strict=False"
    )
