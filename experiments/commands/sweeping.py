"""`runner sweep`: the product of values, a run for each point."""

import pathlib
import sys

from experiments.invocation import Invocation
from experiments.sweep_plan import Point, SweepPlan, plan_sweep
from input_pipelines.token_store import default_cache_dir
from layers.errors import UserError
from runners.configs.fields import as_node, target_of
from runners.configs.files import JSON_NAME
from runners.metrics.json_lines import JsonLines


def sweep(invocation: Invocation) -> int:
  """Runs every unfinished point, then prints the table of all points."""
  if not invocation.sweep:
    raise UserError("sweep what? Name values with --sweep=PATH=V1,V2,...; repeat for a product")
  if invocation.parallel < 1:
    raise UserError(f"--parallel={invocation.parallel}: expected at least 1")
  plan = plan_sweep(invocation.exp, invocation.overrides, invocation.sweep)
  folder = pathlib.Path(invocation.workdir or f"sweeps/{plan.exp}")
  _check(plan, folder)
  if invocation.cache_dir is None:
    default_cache_dir()  # reports an error that all points would have, once
  for warning in plan.warnings:
    print(f"runner: warning: {warning}", file=sys.stderr)
  from runners.sweeps.sweep import SweepPoint, run_sweep

  metric, mode = _order(invocation.sort, plan)
  return run_sweep(
    [
      SweepPoint(point.name, point.values, point.config, _command(invocation, point, folder))
      for point in plan.points
    ],
    exp=plan.exp,
    folder=folder,
    parallel=invocation.parallel,
    metric=metric,
    mode=mode,
  )


def _check(plan: SweepPlan, folder: pathlib.Path) -> None:
  if (folder / JSON_NAME).exists():
    raise UserError(f"{folder} is the workdir of a run; a sweep needs another --workdir")
  for point in plan.points:
    if not any(target_of(as_node(writer)) is JsonLines for writer in point.config.writers):
      raise UserError(
        "the table of a sweep is made from metrics.jsonl, which these writers do not write; add"
        " --set=writers+=@JsonLines"
      )


def _order(sort: str | None, plan: SweepPlan) -> tuple[str, str]:
  """The table's sort key, and "min" or "max" for the order."""
  policy = plan.points[0].config.checkpoints
  if sort is None:
    return policy.metric, policy.mode
  if sort.startswith("-"):
    return sort[1:], "max"
  return sort, policy.mode if sort == policy.metric else "min"


def _command(invocation: Invocation, point: Point, folder: pathlib.Path) -> list[str]:
  """The command as a person would type it, so that run.json records who set which field.

  The point's config.json is written first, so if a file or experiment changes while the sweep
  runs, the point is refused instead of being filed under a wrong name.
  """
  arguments = [*invocation.overrides, *point.overrides]
  return [
    *(sys.executable, "-P", "-m", "experiments.sweep_point", "train"),
    *([f"--exp={invocation.exp}"] if invocation.exp else []),
    *(f"--load={module}" for module in invocation.load),
    *map(str, arguments),
    f"--workdir={folder / point.name}",
    *([f"--cache_dir={invocation.cache_dir}"] if invocation.cache_dir else []),
  ]
