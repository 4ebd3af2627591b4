"""Compiles one training step for devices that may be absent, and reports its facts.

`runner plan` runs it as python -m runners.planning.ahead_of_time REQUEST RESULT (two JSON
files). It is a separate process because the environment variables for a topology must be set
before jax starts.
"""

import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl
import jax

from input_pipelines import allowed_packages
from layers.errors import UserError
from layers.notices import heard, note
from layers.sharding import on_platform
from runners import step_flops
from runners.assembly import jitted_train_step
from runners.blueprint import draw, lay_ground
from runners.configs import allowed_names, fiddle_json
from runners.configs import files as config_files
from runners.devices import collectives, flops, hlo, kernels
from runners.devices.kernel_flops import KernelFlops
from runners.devices.memory import bytes_per_device, device_bytes
from runners.devices.meshes import batch_sharding
from runners.model_traits import traits
from runners.planning import topologies
from runners.processes import parent_process

_PLATFORMS = {"cuda": "gpu"}  # a topology's platform -> jax's name


def plan_step(config: fdl.Config, topology: topologies.Topology | None) -> dict[str, Any]:
  """The facts of one step, named like the fields of `runners.planning.plan.Plan`.

  Args:
    config: a resolved config of a Trainer.
    topology: None: the devices of this machine.

  Raises:
    UserError: the mesh, the rules, the batch and the model do not fit each other.
  """
  devices, platform, memory = _devices(topology)
  with on_platform(platform):
    return _facts(config, devices, platform, memory)


def _facts(
  config: fdl.Config, devices: Sequence[Any], platform: str, memory: int | None
) -> dict[str, Any]:
  ground = lay_ground(config)
  mesh = ground.mesh.build(devices)
  blueprint = draw(ground, mesh, platform=platform)
  trainer, initializer = blueprint.trainer, blueprint.initializer
  state = initializer.abstract
  step = jitted_train_step(trainer, initializer, mesh)
  began = time.perf_counter()
  traced = step.trace(state, step_flops.global_batch(trainer, batch_sharding(mesh)))
  program = flops.tally_traced(traced)
  for loop in program.open_loops:
    note(f"How often the loop {loop} runs is not known: its FLOPs count once.")
  held = {
    "parameters": bytes_per_device(state.params),
    "optimizer": bytes_per_device(state.opt_state),
    "gradients": _gradient_bytes(state.params),
  }
  compiled, refusal = _compiled(traced.lower())
  return {
    "devices": len(devices),
    "device_kind": devices[0].device_kind,
    "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
    "parameters": initializer.num_params(),
    "units_per_step": trainer.units_per_step,
    "units": trainer.train_data.units,
    "num_steps": trainer.num_steps,
    "num_microbatches": trainer.num_microbatches,
    "num_layers": traits(trainer.model).num_layers or 1,
    "flops_per_step": step_flops.model_flops(blueprint.config.model, trainer, state),
    "hardware_flops_per_step": program.flops,
    "bytes_per_device": {
      **_memory(held, compiled, refusal, on_cpu=devices[0].platform == "cpu"),
      "available": memory,
    },
    **_read(compiled, mesh, platform, program.kernels),
    "compile_seconds": time.perf_counter() - began,
    "refusal": refusal,
  }


def _devices(topology: topologies.Topology | None) -> tuple[Any, str, int | None]:
  """The devices, the platform to compile for, and the bytes of memory of a device."""
  if topology is None:
    devices = jax.devices()
    return devices, devices[0].platform, device_bytes(jax.sharding.Mesh(devices, "all"))
  devices, accelerator = topology.devices(), topology.accelerator
  platform = _PLATFORMS.get(accelerator.platform, accelerator.platform)
  memory = accelerator.memory or device_bytes(jax.sharding.Mesh(devices, "all"))
  return devices, platform, memory


def _gradient_bytes(params: Any) -> int:
  """Bytes of gradients on a device: summed in float32, sharded like the parameters."""
  return sum(4 * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(params))


def _compiled(lowered: Any) -> tuple[Any, str | None]:
  """The program, or why the compiler refuses it; TPU compilers know a device's memory."""
  try:
    return lowered.compile(), None
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message:
      raise
    return None, message.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")


def _memory(
  held: Mapping[str, int], compiled: Any, refusal: str | None, *, on_cpu: bool
) -> dict[str, int | None]:
  """Bytes on one device, by purpose.

  The state is counted here; the compiler reports the rest. All memory beyond state and
  gradients counts as activations: values saved for the backward pass, gathered weights,
  workspace.
  """
  if compiled is None:
    wanted = _wanted(refusal or "")
    state = held["parameters"] + held["optimizer"]
    rest = {"activations": None, "arguments": state, "temporaries": wanted, "host": 0}
    return {**held, **rest, "peak": wanted and wanted + state}
  analysis = compiled.memory_analysis()
  arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
  peak = analysis.peak_memory_in_bytes
  if on_cpu:
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    peak = arguments + new + temporaries  # the CPU compiler's own peak has only the arguments
  return {
    **held,
    "activations": max(0, peak - arguments - held["gradients"]),
    "arguments": arguments,
    "temporaries": temporaries,
    "host": analysis.host_argument_size_in_bytes + analysis.host_temp_size_in_bytes,
    "peak": peak,
  }


def _wanted(refusal: str) -> int | None:
  """The bytes of temporaries that a compiler's refusal mentions."""
  found = re.search(r"\(([\d.]+)([KMGT])\) exceeds", refusal)
  return int(float(found[1]) * 2 ** (10 * (" KMGT".index(found[2])))) if found else None


def _read(
  compiled: Any, mesh: jax.sharding.Mesh, platform: str, pallas: Collection[KernelFlops]
) -> dict[str, list[dict[str, Any]] | None]:
  """Every collective and every kernel of the program, as JSON; None without a program."""
  if compiled is None:
    return {"collectives": None, "kernels": None, "cheapest_kernels": None}
  program = hlo.Program(compiled.as_text())
  found = collectives.collectives(program, mesh.shape)
  dearest = kernels.kernels(program, platform, pallas)
  choices = any(kernel.kind == "choices" for kernel in dearest)
  cheapest = kernels.kernels(program, platform, pallas, cheapest=True) if choices else []
  return {
    "collectives": [collective._asdict() for collective in found],
    "kernels": [*map(dataclasses.asdict, dearest)],
    "cheapest_kernels": [*map(dataclasses.asdict, cheapest)] or None,
  }


def main() -> int:
  """Reads the request; writes the facts, or the error in the config, as the result."""
  parent_process.when_gone(lambda: os._exit(1))
  request, result = map(Path, sys.argv[1:])
  asked = json.loads(request.read_text())
  topology = asked["topology"] and topologies.parse(asked["topology"])
  for package in asked["packages"]:
    allowed_packages.allow(package)
  allowed_names.admit(fiddle_json.names_in(asked["config"]["config"]))  # checked by the parent
  try:
    with heard(aloud=False) as notes:  # such as which core is chosen
      stored = config_files.from_json(json.dumps(asked["config"]), "the request")
      answer = plan_step(stored.config, topology)
    answer["notes"] = list(dict.fromkeys(notes))
  except UserError as error:
    answer = {"error": str(error)}
  result.write_text(json.dumps(answer))
  return 0


if __name__ == "__main__":
  sys.exit(main())
