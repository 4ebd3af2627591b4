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
  """Where a fresh run begins, and what things are called there.

  Attributes:
    path: a run (its newest checkpoint), the folder of one checkpoint, or a Hugging Face folder.
    everything: moments, step, random numbers, data position and callbacks come along: the run
      goes on as that one would have, in a workdir and with a config of its own. Otherwise
      parameters alone, at step 0.
    rules: (regular expression, replacement) pairs, applied in order to each parameter's name
      there; the result is its name here. Names are those of `runner ckpt show`, without
      "params/". A parameter's moments follow it.
    strict: refuse what is missing there or not used here. Otherwise what is missing begins as
      in any run. Another shape is always refused: a rule that gives the array another name
      leaves it out.
  """

  path: str
  everything: bool = False
  rules: Sequence[tuple[str, str]] = ()
  strict: bool = True


def source_of(value: Any) -> InitFrom:
  """The field of that name, built or a config, as an InitFrom."""
  if isinstance(value, fdl.Buildable):
    value = fdl.build(value)
  return value if isinstance(value, InitFrom) else InitFrom(path=value)


def check_source(value: Any) -> None:
  """Raises UserError unless there is something at the path that could be begun from."""
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
