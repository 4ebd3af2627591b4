"""`runner ckpt`: inspects checkpoints without the model's code."""

import pathlib

from experiments.invocation import Invocation
from layers.errors import UserError
from layers.suggestions import did_you_mean, nearest


def inspect_checkpoints(invocation: Invocation) -> int:
  """Applies the first argument, a verb, to the runs or checkpoints named by the others.

  Returns:
    The exit code: 1 if `verify` found damage.
  """
  verb, *names = invocation.arguments or ("",)
  if verb not in _VERBS:
    example = verb if "." in verb or "/" in verb else "RUN"
    cure = (
      did_you_mean(verb, _VERBS)
      if nearest(verb, _VERBS)
      else f"write `runner ckpt ls {example}`"
    )
    raise UserError(
      f"there is no `ckpt {verb}`: {cure} (verbs: ls, show and verify RUN, diff A B)"
      if verb
      else "which verb? `runner ckpt ls RUN`, show RUN, verify RUN or diff A B"
    )
  inspect, takes = _VERBS[verb]
  if len(names) != len(takes.split()):
    raise UserError(f"the command is written `runner ckpt {verb} {takes}`")
  return inspect(*map(_path, names))


def _path(name: str) -> str:
  """The path of a folder, or of the run with that name in runs/."""
  path = next(
    (p for p in (pathlib.Path(name), pathlib.Path("runs") / name) if p.exists()), None
  )
  if path is None:
    raise UserError(f"there is no run {name}: name a workdir, or a folder in runs/")
  return str(path)


def _list(path: str) -> int:
  from runners.checkpoints.listing import list_steps

  print(list_steps(path))
  return 0


def _show(path: str) -> int:
  from runners.checkpoints.listing import show_step

  print(show_step(path))
  return 0


def _verify(path: str) -> int:
  from runners.checkpoints.verification import verify

  intact = []
  for line, is_intact in verify(path):
    print(line, flush=True)
    intact.append(is_intact)
  return 0 if all(intact) else 1


def _diff(a: str, b: str) -> int:
  from runners.checkpoints.difference import difference

  print(difference(a, b))
  return 0


_VERBS = {
  "ls": (_list, "RUN"),
  "show": (_show, "RUN"),
  "verify": (_verify, "RUN"),
  "diff": (_diff, "A B"),
}
