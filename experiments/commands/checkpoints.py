"""`runner ckpt ls` and `ckpt show`: checkpoints looked at without the model's code."""

import pathlib

from experiments.invocation import Invocation
from layers.errors import UserError
from runners.suggestions import did_you_mean

_VERBS = ("ls", "show")


def inspect_checkpoints(invocation: Invocation) -> int:
  """`ckpt ls RUN` lists the steps of a run, `ckpt show RUN` what is in a checkpoint."""
  verb, run = invocation.arguments
  if verb not in _VERBS:
    raise UserError(f"there is no `ckpt {verb}`: {did_you_mean(verb, _VERBS)}")
  path = next((p for p in (pathlib.Path(run), pathlib.Path("runs") / run) if p.exists()), None)
  if path is None:
    raise UserError(f"there is no run {run}: name a workdir, or a folder in runs/")
  from runners.checkpoint_listing import list_steps, show_step

  print((list_steps if verb == "ls" else show_step)(str(path)))
  return 0
