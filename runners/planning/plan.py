"""`runner plan`: the memory, FLOPs, exchanges and time of a run on devices that may be absent.

A separate process compiles one step for them (runners/planning/ahead_of_time.py). Nothing is
run, and no data are read.
"""

import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl

from input_pipelines import allowed_packages
from layers.errors import UserError
from runners.configs import files as config_files
from runners.devices.collective_budget import Allowance, violations
from runners.devices.collectives import Collective, by_kind
from runners.devices.flops import peak_flops
from runners.devices.kernels import Kernel
from runners.devices.rates import Rates, rates
from runners.planning.exchanges import exchange_seconds
from runners.planning.step_account import StepAccount, account, dearest
from runners.planning.topologies import Topology
from runners.processes import signals

# The fraction of a GPU's memory that jax preallocates; the later name wins.
_GPU_FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
_LAST_LINES = 30  # of the compiler's output, shown when it fails


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCost:
  """Time and cost at a share `mfu` of the peak speed; None where speed or length is unknown.

  `amount`: the amount of training data, in the plan's units.
  """

  mfu: float
  seconds_per_step: float | None
  steps: float | None
  amount: float | None
  seconds: float | None
  device_hours: float | None
  cost: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The facts of one training step on some devices.

  Attributes:
    devices: their number; mesh: axis -> devices along it, if more than one.
    compiled_for: text that names the devices the program was compiled for.
    parameters: number of the model's parameters.
    units: the unit in which the data are counted; units_per_step: their number in an update.
    flops_per_step: model FLOPs; hardware_flops_per_step: FLOPs that the program computes.
    bytes_per_device: purpose -> bytes; None: the compiler refused before it knew.
    collectives: of the program, the largest first; None without a program.
    num_steps: of the run; num_layers, num_microbatches: of a step.
    compile_seconds: for tracing and compiling.
    refusal: why the compiler refuses the program; None if it accepts.
    over_budget: a line for each kind of collective beyond the experiment's allowance.
    notes: messages from the parts of the run, such as the attention core chosen.
    peak_flops: FLOP/s of one device; None if unknown.
    kernels: of the program, on one device; None without a program. Of a choice between
      programs those of the dearest branch; cheapest_kernels: of the cheapest, None without one.
    exchange_seconds: for the collectives, one after another; None if unknown.
    rates: of the device that the program is compiled for; None if unknown.
  """

  devices: int
  mesh: Mapping[str, int]
  compiled_for: str
  parameters: int
  units_per_step: float
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
  units: str = "tokens"
  kernels: Sequence[Kernel] | None = None
  cheapest_kernels: Sequence[Kernel] | None = None
  exchange_seconds: float | None = None
  rates: Rates | None = None

  @property
  def usable(self) -> int | None:
    """Bytes of a device that a program may use."""
    return self.bytes_per_device["available"]

  @property
  def fits(self) -> bool:
    """Whether the compiler accepts the program and its peak is within `usable`."""
    peak = self.bytes_per_device["peak"]
    if self.refusal or peak is None:
      return False
    return self.usable is None or peak <= self.usable

  def run(self, *, mfu: float, tokens: float | None = None, price: float = 0.0) -> "RunCost":
    """Time and cost of the whole run.

    Args:
      mfu: the share of the devices' peak speed at which the program computes.
      tokens: how many to train on; None: num_steps decides.
      price: of one device for an hour.
    """
    if tokens and self.units != "tokens":
      raise UserError(
        f"--tokens={tokens:g}: these data are counted in {self.units}; say how long the run is "
        "with --set=num_steps=N"
      )
    steps = tokens / self.units_per_step if tokens else self.num_steps
    seconds = self.seconds_per_step(mfu)
    total = steps * seconds if steps and seconds else None
    hours = total and total * self.devices / 3600
    return RunCost(
      mfu=mfu,
      seconds_per_step=seconds,
      steps=steps,
      amount=steps and steps * self.units_per_step,
      seconds=total,
      device_hours=hours,
      cost=hours and hours * price,
    )

  def seconds_per_step(self, mfu: float) -> float | None:
    """Seconds for what the program computes, at the share `mfu` of the devices' peak speed.

    None if that is unknown.
    """
    flops = self.hardware_flops_per_step
    return self.peak_flops and flops / (self.devices * self.peak_flops * mfu)

  def account(self, *, cheapest: bool = False) -> StepAccount | None:
    """Where the time of a step goes; None without a program.

    Args:
      cheapest: by the cheapest branch of each choice; None also if there is no choice.
    """
    kernels = self.cheapest_kernels if cheapest else self.kernels
    return None if kernels is None else account(kernels, self.rates, self.exchange_seconds)

  def model_utilisation(self, seconds: float | None) -> float | None:
    """The MFU of steps of so many seconds; None if unknown."""
    if not seconds or not self.peak_flops:
      return None
    return self.flops_per_step / (self.devices * self.peak_flops * seconds)


class CompileError(RuntimeError):
  """The compiling process ended without a result; the message holds its last lines."""


def plan(
  config: fdl.Config,
  exp: str,
  topology: Topology | None,
  stop: threading.Event | None = None,
) -> Plan:
  """Compiles one step of `config`.

  Args:
    config: a resolved config of a Trainer.
    exp: the experiment's name.
    topology: None: the devices of this machine.
    stop: once set, ends the compilation.

  Raises:
    UserError: the mesh, the rules, the batch and the model do not fit each other.
    CompileError: the compiler failed, or was stopped.
  """
  facts = _facts(config, exp, topology, stop)
  found = facts.pop("collectives")
  if found is not None:
    found = [Collective(**each | {"axes": tuple(each["axes"])}) for each in found]
  budget: Sequence[Allowance] = [fdl.build(each) for each in config.collective_budget or ()]
  counts = {name: facts[name] for name in ("num_layers", "num_microbatches")}
  kind = topology.accelerator.device_kind if topology else facts["device_kind"]
  made = {name: facts.pop(name) for name in ("kernels", "cheapest_kernels")}
  del facts["device_kind"]
  if topology and (usable := usable_bytes(topology)) is not None:
    facts["bytes_per_device"]["available"] = usable
  return Plan(
    **facts,
    compiled_for=_compiled_for(topology, facts["devices"], kind),
    collectives=found,
    over_budget=violations(budget, found or (), **counts),
    peak_flops=peak_flops(kind),
    kernels=_kernels(made["kernels"]),
    cheapest_kernels=_kernels(made["cheapest_kernels"]),
    exchange_seconds=topology and exchange_seconds(found or (), facts["mesh"], topology),
    rates=rates(kind) if topology is None or topology.can_compile() else None,
  )


def _kernels(found: Sequence[Mapping[str, Any]] | None) -> list[Kernel] | None:
  return None if found is None else [Kernel(**each) for each in found]


def usable_bytes(topology: Topology) -> int | None:
  """Bytes of a device that a program may use: on a GPU, jax preallocates only a fraction."""
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


def as_json(plan: Plan, *, kernels: bool = False, **asked: Any) -> dict[str, Any]:
  """The plan as JSON; collectives are summed over the places of the program.

  Args:
    plan: to convert.
    kernels: with all kernels, the dearest first.
    asked: arguments for `Plan.run`.
  """
  found, made = plan.collectives, plan.kernels or ()
  sums = None if found is None else [
    {"kind": kind, "axes": axes, "count": count, "bytes": size}
    for kind, axes, count, size, _ in by_kind(found)
  ]  # fmt: skip
  bare = dataclasses.replace(plan, kernels=None, cheapest_kernels=None)
  facts, run = dataclasses.asdict(bare), dataclasses.asdict(plan.run(**asked))
  units = facts.pop("units")
  del facts["kernels"], facts["cheapest_kernels"], facts["exchange_seconds"]
  listed = map(dataclasses.asdict, dearest(made, plan.rates, len(made)))
  return {
    **_renamed(facts, "units_per_step", f"{units}_per_step"),
    "collectives": sums,
    "fits": plan.fits,
    "within_budget": not plan.over_budget,
    "run": _renamed(run, "amount", units),
    "step": _account_as_json(plan, plan.account()),
    "cheapest_step": _account_as_json(plan, plan.account(cheapest=True)),
    **({"kernels": [*listed]} if kernels else {}),
  }


def _account_as_json(plan: Plan, found: StepAccount | None) -> dict[str, Any] | None:
  if found is None:
    return None
  return dataclasses.asdict(found) | {
    "mfu": plan.model_utilisation(found.seconds),
    "mfu_bound": plan.model_utilisation(found.bound),
  }


def _renamed(facts: Mapping[str, Any], name: str, to: str) -> dict[str, Any]:
  return {to if key == name else key: value for key, value in facts.items()}


def _facts(
  config: fdl.Config, exp: str, topology: Topology | None, stop: threading.Event | None
) -> dict[str, Any]:
  """The result of the compiling process."""
  stored = config_files.to_json(config, exp)
  _check_readable(stored, exp)
  request = {
    "config": json.loads(stored),
    "topology": topology and topology.name,
    "packages": allowed_packages.allowed(),
  }
  with tempfile.TemporaryDirectory() as folder:
    asked, answer = Path(folder, "request.json"), Path(folder, "answer.json")
    asked.write_text(json.dumps(request))
    ended = _compile(asked, answer, _environment(topology), stop)
    if not answer.exists():
      raise CompileError("it was stopped" if ended is None else _failure(*ended))
    facts = json.loads(answer.read_text())
  if "error" in facts:
    raise UserError(facts["error"])
  return facts


def _check_readable(stored: str, exp: str) -> None:
  """Raises UserError if another process could not find an object of the config by its name."""
  try:
    config_files.from_json(stored, f"the config of {exp}")
  except AttributeError as error:
    raise UserError(
      f"the config of {exp} cannot be read back ({error.args[0].splitlines()[0]}): use a "
      "function or class that can be imported by name, which a lambda cannot"
    ) from error


def _compile(
  asked: Path, answer: Path, env: Mapping[str, str], stop: threading.Event | None
) -> tuple[int, str] | None:
  """Runs the compiling process, which ends when this one does.

  Returns:
    Its exit code and standard error; None if `stop` ended it.
  """
  command = [sys.executable, "-m", "runners.planning.ahead_of_time", str(asked), str(answer)]
  ours, held = os.pipe()  # the child exits once this process, alive or killed, drops its end
  with subprocess.Popen(
    command, env=env, stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  ) as process:
    os.close(ours)
    try:
      while True:
        signals.check()
        try:
          _, said = process.communicate(timeout=0.5)
          return process.returncode, said
        except subprocess.TimeoutExpired:
          if stop is not None and stop.is_set():
            return None
    finally:
      os.close(held)
      process.kill()


def _failure(code: int, said: str) -> str:
  """The last lines of a process without a result; the final line names the cause."""
  lines = said.splitlines()[-_LAST_LINES:]
  if code < 0:
    cause = "the system had no memory left" if -code == signal.SIGKILL else "a fault of its own"
    lines.append(
      f"it died of {signal.Signals(-code).name} (exit code {128 - code}), most often {cause}; "
      f"this is jax {importlib.metadata.version('jax')}, another version may do"
    )
  return "\n".join(lines) or f"it ended with exit code {code}, without a word"


def _environment(topology: Topology | None) -> dict[str, str]:
  """Environment for the child: it finds the modules that this process finds."""
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
  return (
    f"{devices} simulated CPU devices in place of {topology.name}, whose compiler is not "
    f"installed (pip install 'strata[{topology.extra}]'): activations come out larger than "
    "there"
  )
