"""What the laws are tried with: a tenant's run in this process, and in one that is killed.

python -m tests.tenants.laws NAME WORKDIR KILL_AT
"""

import hashlib
import importlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import fiddle as fdl
import jax
import numpy as np

from input_pipelines import allowed_packages
from runners.assembly import Assembly
from runners.callbacks import Callback
from runners.checkpoints.retention import Checkpoints
from runners.devices.meshes import MeshShape
from runners.metrics.json_lines import JsonLines
from runners.processes import compilation_cache
from runners.training import train
from tests.runners import toy_run

NUM_STEPS = 20
KILL_AT = "STRATA_TEST_KILL_AT"  # the step after which the process dies, written or not


class Assassin(Callback):
  """Kills its own process as `kill -9` does."""

  def on_step(self, run: Any, scalars: dict[str, float]) -> None:
    if os.environ.get(KILL_AT) == str(run.step):
      os.kill(os.getpid(), signal.SIGKILL)


def tenant_config(name: str, **fields: Any) -> fdl.Config:
  """The config of the tenant that the module `name` is."""
  return importlib.import_module(f"tests.tenants.{name}").config(**fields)


def run_tenant(name: str, workdir: str) -> None:
  """The whole run, or the rest of it: saved every 3 steps, logged every 2."""
  config = tenant_config(
    name,
    num_steps=NUM_STEPS,
    log_every=2,
    eval_every=5,
    checkpoints=fdl.Config(Checkpoints, every=3),
    callbacks=[fdl.Config(Assassin)],
    writers=[fdl.Config(JsonLines)],
  )
  assert train(config, f"tenants.{name}", workdir) == 0


def rows(workdir: Path) -> list[dict[str, float]]:
  """What was logged, but for the clock."""
  parsed = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in parsed]


def short_run(config: fdl.Config, num_steps: int) -> dict[str, Any]:
  """First parameters and variables as a digest, losses, and the interval's reports."""
  assembly, state = toy_run.begin(config, os.environ["STRATA_CACHE"])
  first = _without_padding(assembly, toy_run.snapshot((state.params, state.variables)))
  state, losses = toy_run.take_steps(assembly, state, num_steps)
  sums = jax.device_get((state.metrics.reports, state.metrics.statistics))
  said = {
    f"{name} {part}": np.asarray(getattr(one, part)).tolist()
    for reports in sums
    for name, one in reports.items()
    for part in ("total", "weight")
  }
  digest = hashlib.sha256(b"".join(x.tobytes() for x in first)).hexdigest()
  return {"first": digest, "losses": losses, "said": said}


def _without_padding(assembly: Assembly, first: Any) -> list[np.ndarray]:
  """The arrays without the rows of a vocabulary that only some meshes pad."""
  state = assembly.initializer.unpadded()
  shapes = jax.tree.leaves((state.params, state.variables))
  cut = lambda x, shape: x[tuple(map(slice, shape.shape))]
  return list(map(cut, jax.tree.leaves(first), shapes))


def runs_on(name: str, meshes: list[dict[str, int]]) -> list[dict[str, Any]]:
  """A short run on each mesh of this process's devices."""
  allowed_packages.allow("tests")
  compilation_cache.enable(os.environ["STRATA_CACHE"])
  shapes = [fdl.Config(MeshShape, **mesh) for mesh in meshes]
  return [short_run(tenant_config(name, mesh=mesh), NUM_STEPS) for mesh in shapes]


def replaced(config: fdl.Config, **fields: Any) -> fdl.Config:
  """The config with these fields of its model."""
  for name, value in fields.items():
    setattr(config.model, name, value)
  return config


def run_killed(name: str, workdir: str, kill_at: int) -> None:
  """A run that dies after step `kill_at`."""
  allowed_packages.allow("tests")
  compilation_cache.enable(os.environ["STRATA_CACHE"])
  os.environ[KILL_AT] = str(kill_at)
  run_tenant(name, workdir)
