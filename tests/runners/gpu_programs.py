"""Compiles the first state and the step of an experiment for one H100 that need not be there.

python -m tests.runners.gpu_programs EXP SETTING... prints, as JSON, what the tests look for.
"""

import json
import sys

from experiments.overrides import Override, apply_overrides
from experiments.registry import find
from layers.sharding import on_platform
from runners import step_flops
from runners.assembly import jitted_train_step
from runners.blueprint import draw, lay_ground
from runners.devices.meshes import batch_sharding
from runners.planning.topologies import parse


def report(exp: str, settings: list[str]) -> dict[str, int]:
  """How often cuDNN's attention and any product stand in the two programs."""
  config = find(exp).experiment().config()
  config = apply_overrides(config, [Override("set", text) for text in settings]).config
  ground = lay_ground(config)
  mesh = ground.mesh.build(parse("h100:1x1").devices())
  with on_platform("gpu"):
    blueprint = draw(ground, mesh, platform="gpu")
    trainer, initializer = blueprint.trainer, blueprint.initializer
    step = jitted_train_step(trainer, initializer, mesh)
    batch = step_flops.global_batch(trainer, batch_sharding(mesh))
    updates = step.trace(initializer.abstract, batch).lower().compile().as_text()
    begins = initializer.program().lower().compile().as_text()
  return {
    "attention_in_step": updates.count("__cudnn$fmha"),
    "attention_in_init": begins.count("__cudnn$fmha"),
    "products_in_init": begins.count(" dot(") + begins.count("__cublas"),
    "random_in_init": begins.count("rng") + begins.count("threefry"),
  }


if __name__ == "__main__":
  print(json.dumps(report(sys.argv[1], sys.argv[2:])))
