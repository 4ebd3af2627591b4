"""`runner plan`: the memory and time of a run, before a device is rented."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from experiments.invocation import Invocation
from experiments.resolution import Resolved
from layers.errors import UserError
from runners.processes.signals import Interruption

_DOES_NOT_FIT = 3
_MINUTES = 4.0  # to search, unless told otherwise


def plan_run(invocation: Invocation) -> int:
  """Plans one step for a topology; returns 0 if it fits, 3 if not or if over budget."""
  _check(invocation)
  with Interruption() as interruption:  # so that compiling processes are ended and tidied up
    return _plan(invocation) if not invocation.search else _search(invocation, interruption)


def _plan(invocation: Invocation) -> int:
  resolved = invocation.resolve()
  from input_pipelines.progress import Progress
  from runners.planning import topologies
  from runners.planning.plan import CompileError, as_json, plan

  topology = topologies.parse(invocation.topology) if invocation.topology else None
  try:
    with Progress(f"compiling a step for {invocation.topology or 'the devices here'}"):
      found = plan(resolved.config, resolved.exp, topology)
  except CompileError as error:
    *said, last = str(error).splitlines()
    print(*said, f"runner: error: the compiler failed: {last}", sep="\n", file=sys.stderr)
    return 1
  if invocation.json:
    answer = as_json(found, kernels=invocation.kernels, **_asked(invocation))
    print(json.dumps(answer, indent=1))
  else:
    print(_report(found, resolved.exp, invocation), end="")
  return 0 if found.fits and not found.over_budget else _DOES_NOT_FIT


def _check(invocation: Invocation) -> None:
  """Raises UserError for numbers out of range, and for flags without effect."""
  if not 0 < invocation.mfu <= 1:
    raise UserError(f"--mfu={invocation.mfu:g} is not between 0 and 1: 0.4 is 40 %")
  for name in ("minutes", "tokens", "price"):
    value = getattr(invocation, name)
    if value is not None and value < 0:
      raise UserError(f"--{name}={value:g} is less than nothing")
  for name in ("to", "minutes"):
    if getattr(invocation, name) is not None and not invocation.search:
      raise UserError(f"--{name} means something with --search only")


def _asked(invocation: Invocation) -> dict[str, Any]:
  return {name: getattr(invocation, name) for name in ("mfu", "tokens", "price")}


def _report(found: Any, exp: str, invocation: Invocation) -> str:
  from runners.planning.report import report

  return report(found, exp, kernels=invocation.kernels, **_asked(invocation))


def _search(invocation: Invocation, interruption: Interruption) -> int:
  """Ranks candidates that fit, and writes the best as a file for --config."""
  resolved = invocation.resolve()
  from runners.planning import topologies
  from runners.planning.plan import as_json
  from runners.planning.search import ranking, search

  topology = topologies.parse(invocation.topology) if invocation.topology else None
  if topology is None:
    raise UserError("--search tries meshes over --topology: name one, as --topology=v5p:4x4x4")
  file = _new_file(invocation.to or _file_name(resolved.exp, topology.name))
  tell = None if invocation.json else lambda line: print(line, flush=True)
  minutes = _MINUTES if invocation.minutes is None else invocation.minutes
  found = search(resolved.config, resolved.exp, topology, 60 * minutes, tell)
  best = found.best
  if invocation.json:
    answer = {
      "fits": best is not None,
      "file": str(file) if best else None,
      "candidates": [
        {"set": one.settings, **as_json(one.plan, **_asked(invocation))} for one in found.ranked
      ],
      "failed": found.failed,
      "untried": found.num_untried,
    }
    print(json.dumps(answer, indent=1))
  else:
    print("\n".join(ranking(found)))
  if best is not None:
    _write(file, resolved.exp, best.settings)
    if not invocation.json:
      print(f"\n{_report(best.plan, resolved.exp, invocation)}")
      print(f"written: {file}; train with\n  {_command(invocation, resolved, file)}")
  if found.interrupted:
    return interruption.exit_code
  return 0 if best is not None else _DOES_NOT_FIT


def _new_file(name: str) -> Path:
  """The file for the best candidate; UserError if it exists already."""
  file = Path(name)
  if file.exists():
    raise UserError(f"{file} is there already: name another with --to=FILE")
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {file.parent}: {error.strerror}; give --to=FILE") from error
  return file


def _command(invocation: Invocation, resolved: Resolved, file: Path) -> str:
  """The command that trains with the same overrides and then the file."""
  loaded = [f"--load={module}" for module in invocation.load]
  overrides = map(str, invocation.overrides)
  words = [*loaded, f"--exp={resolved.exp}", *overrides, f"--config={file}"]
  return shlex.join(["runner", *words])


def _file_name(exp: str, topology: str) -> str:
  return f"plans/{exp}-{re.sub('[^a-z0-9]+', '-', topology)}.yaml"


def _write(file: Path, exp: str, settings: dict[str, Any]) -> None:
  try:
    file.write_text(yaml.safe_dump({"exp": exp, "set": settings}, sort_keys=False))
  except OSError as error:
    raise UserError(f"cannot write {file}: {error.strerror}; name another with --to") from error
