"""`runner plan`: what a run would take, told before a device is rented."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from experiments.invocation import Invocation
from experiments.resolution import Resolved
from layers.errors import UserError

_DOES_NOT_FIT = 3


def plan_run(invocation: Invocation) -> int:
  """One step compiled for a topology; 0: it fits, 3: it does not, or exceeds its budget."""
  _check(invocation)
  resolved = invocation.resolve()
  from runners import topologies

  topology = topologies.parse(invocation.topology) if invocation.topology else None
  if invocation.search:
    return _search(invocation, resolved, topology)
  from runners.plan import as_json, plan

  found = plan(resolved.config, resolved.exp, topology)
  if invocation.json:
    print(json.dumps(as_json(found), indent=1))
  else:
    print(_report(invocation, resolved, found), end="")
  return 0 if found.fits and not found.over_budget else _DOES_NOT_FIT


def _check(invocation: Invocation) -> None:
  """The numbers among the flags."""
  if not 0 < invocation.mfu <= 1:
    raise UserError(f"--mfu={invocation.mfu:g} is not between 0 and 1: 0.4 is 40 %")
  for name in ("minutes", "tokens", "price"):
    value = getattr(invocation, name)
    if value is not None and value < 0:
      raise UserError(f"--{name}={value:g} is less than nothing")
  if invocation.to and not invocation.search:
    raise UserError("--to is where --search writes the best: give both")


def _report(invocation: Invocation, resolved: Resolved, found: Any) -> str:
  from runners.plan_report import report

  told = {name: getattr(invocation, name) for name in ("mfu", "tokens", "price")}
  return report(found, resolved.exp, **told)


def _search(invocation: Invocation, resolved: Resolved, topology: Any) -> int:
  """Ranks what fits, and writes the first as a file for --config."""
  from runners.plan import as_json
  from runners.plan_search import ranking, search

  if topology is None:
    raise UserError("--search tries meshes over --topology: name one, as --topology=v5p:4x4x4")
  file = Path(invocation.to or _file_name(resolved.exp, topology.name))
  if file.exists() and not invocation.to:
    raise UserError(f"{file} is there already: name another with --to=FILE")
  tell = None if invocation.json else lambda line: print(line, flush=True)
  found = search(resolved.config, resolved.exp, topology, 60 * invocation.minutes, tell)
  best = found.best
  if best is not None:
    _write(file, resolved.exp, best.settings)
  if invocation.json:
    candidates = [{"set": x.settings, **as_json(x.plan)} for x in found.ranked]
    print(json.dumps({
      "fits": best is not None,
      "file": str(file) if best else None,
      "candidates": candidates,
      "untried": found.num_untried,
    }, indent=1))  # fmt: skip
  else:
    print("\n".join(ranking(found)))
    if best is not None:
      print(f"\n{_report(invocation, resolved, best.plan)}\nwritten: {file}; train with")
      print(f"  {_command(invocation, resolved, file)}")
  return 0 if best is not None else _DOES_NOT_FIT


def _command(invocation: Invocation, resolved: Resolved, file: Path) -> str:
  """The same overrides, then the file."""
  words = [f"--exp={resolved.exp}", *map(str, invocation.overrides), f"--config={file}"]
  return shlex.join(["runner", *words])


def _file_name(exp: str, topology: str) -> str:
  return f"plans/{exp}-{re.sub('[^a-z0-9]+', '-', topology)}.yaml"


def _write(file: Path, exp: str, settings: dict[str, Any]) -> None:
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"exp": exp, "set": settings}, sort_keys=False))
  except OSError as error:
    raise UserError(f"cannot write {file}: {error.strerror}; name another with --to") from error
