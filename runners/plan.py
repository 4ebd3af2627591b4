"""What a run would take on devices that need not be there: `runner plan`.

One step is compiled for them, in a process of its own (runners/ahead_of_time.py); nothing is
run, and no data are read.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl

from layers.errors import UserError
from runners import config_files
from runners.collective_budget import Allowance, violations
from runners.collectives import Collective, by_kind
from runners.flops import peak_flops
from runners.topologies import Topology

# Which part of a GPU's memory jax takes at once; the later name wins.
_GPU_FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The facts of one training step on some devices.

  Attributes:
    devices: how many; mesh: axis -> devices along it, where more than one.
    compiled_for: whose program it is that was looked at.
    parameters: of the model.
    flops_per_step: of the model; hardware_flops_per_step: that the program computes.
    bytes_per_device: what for -> bytes; None: the compiler refused before it knew.
    collectives: of the program, the largest first; None without a program.
    num_steps: of the run; num_layers, num_microbatches: of a step.
    compile_seconds: of tracing and compiling.
    refusal: why the compiler refuses.
    over_budget: collectives beyond what the experiment allows, a line each.
    notes: what the parts of the run have to say.
    peak_flops: a second, of one device; None: not known.
  """

  devices: int
  mesh: Mapping[str, int]
  compiled_for: str
  parameters: int
  tokens_per_step: int
  num_steps: int | None
  num_layers: int
  num_microbatches: int
  flops_per_step: int
  hardware_flops_per_step: int
  bytes_per_device: Mapping[str, int | None]
  collectives: Sequence[Collective] | None
  compile_seconds: float
  refusal: str | None
  over_budget: Sequence[str]
  notes: Sequence[str]
  peak_flops: float | None

  @property
  def usable(self) -> int | None:
    """Bytes of a device that a program gets."""
    return self.bytes_per_device["available"]

  @property
  def fits(self) -> bool:
    """Whether the compiler accepts it and its peak is within what a device has."""
    peak = self.bytes_per_device["peak"]
    if self.refusal or peak is None:
      return False
    return self.usable is None or peak <= self.usable

  def seconds_per_step(self, mfu: float) -> float | None:
    """At this fraction of the peak speed of all devices; None where that is not known."""
    return self.peak_flops and self.flops_per_step / (self.devices * self.peak_flops * mfu)


def plan(
  config: fdl.Config, exp: str, topology: Topology | None, *, seconds: float | None = None
) -> Plan:
  """Compiles one step of `config`.

  Args:
    config: resolved, of a Trainer.
    exp: the experiment's name.
    topology: None: the devices of this machine.
    seconds: to wait at most.

  Raises:
    UserError: the mesh, the rules, the batch and the model do not fit each other.
    TimeoutError: it took longer.
  """
  facts = _facts(config, exp, topology, seconds)
  found = facts.pop("collectives")
  if found is not None:
    found = [Collective(**each | {"axes": tuple(each["axes"])}) for each in found]
  budget: Sequence[Allowance] = [fdl.build(each) for each in config.collective_budget or ()]
  counts = {name: facts[name] for name in ("num_layers", "num_microbatches")}
  kind = topology.accelerator.device_kind if topology else facts["device_kind"]
  del facts["device_kind"]
  if topology and (usable := usable_bytes(topology)) is not None:
    facts["bytes_per_device"]["available"] = usable
  return Plan(
    **facts,
    compiled_for=_compiled_for(topology, facts["devices"], kind),
    collectives=found,
    over_budget=violations(budget, found or (), **counts),
    peak_flops=peak_flops(kind),
  )


def usable_bytes(topology: Topology) -> int | None:
  """What a program gets of a device: of a GPU jax takes a part, and leaves the rest."""
  accelerator = topology.accelerator
  if accelerator.memory is None or accelerator.platform != "cuda":
    return accelerator.memory
  return int(accelerator.memory * _gpu_fraction())


def _gpu_fraction() -> float:
  fraction = 0.75
  for name in _GPU_FRACTIONS:
    if text := os.environ.get(name):
      try:
        fraction = float(text)
      except ValueError:
        raise UserError(f"{name}={text} is no number: write a fraction, as 0.9") from None
  return fraction


def as_json(plan: Plan) -> dict[str, Any]:
  """Everything, for programs; collectives as sums over the places of the program."""
  found = plan.collectives
  return {
    **dataclasses.asdict(plan),
    "collectives": None if found is None else [
      {"kind": kind, "axes": axes, "count": count, "bytes": size}
      for kind, axes, count, size, _ in by_kind(found)
    ],
    "fits": plan.fits,
  }  # fmt: skip


def _facts(
  config: fdl.Config, exp: str, topology: Topology | None, seconds: float | None
) -> dict[str, Any]:
  """What the process answers."""
  request = {
    "config": json.loads(config_files.to_json(config, exp)),
    "topology": topology and topology.name,
  }
  with tempfile.TemporaryDirectory() as folder:
    asked, answer = Path(folder, "request.json"), Path(folder, "answer.json")
    asked.write_text(json.dumps(request))
    command = [sys.executable, "-m", "runners.ahead_of_time", str(asked), str(answer)]
    try:
      process = subprocess.run(
        command,
        env=_environment(topology),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
      )
    except subprocess.TimeoutExpired as error:
      raise TimeoutError(f"compiling took longer than {seconds:.0f} s") from error
    if not answer.exists():
      last = "\n".join(process.stderr.splitlines()[-30:])
      raise RuntimeError(f"compiling ended with code {process.returncode}:\n{last}")
    facts = json.loads(answer.read_text())
  if "error" in facts:
    raise UserError(facts["error"])
  return facts


def _environment(topology: Topology | None) -> dict[str, str]:
  """Modules are found where this process finds them, whatever it was started with."""
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
  if topology is None:
    return env
  wanted = topology.environment()
  if "XLA_FLAGS" in wanted:
    wanted["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {wanted['XLA_FLAGS']}".strip()
  return env | wanted


def _compiled_for(topology: Topology | None, devices: int, kind: str) -> str:
  if topology is None:
    return f"{devices} x {kind}, the devices here"
  if topology.can_compile():
    return f"{topology.name}, {devices} x {kind}"
  extra = {"libtpu": "tpu", "jax_cuda12_plugin": "gpu-plan"}[topology.compiler or ""]
  return (
    f"{devices} simulated CPU devices in place of {topology.name}, whose compiler is not "
    f"installed (pip install 'strata[{extra}]'): activations come out larger than there"
  )
