"""Rows split by length stay split: what devices gather along `sequence` is no activation.

Two rows a device, as one row hides it: a device's parts of several rows, folded into one
dimension of tokens, do not lie together, and the compiler gathers whole rows to multiply them.
"""

import json
from typing import Any

import fiddle as fdl
import pytest

from runners import step_flops
from runners.assembly import jitted_train_step
from runners.blueprint import draw, lay_ground
from runners.devices.collective_budget import violations
from runners.devices.collectives import collectives
from runners.devices.hlo import Program
from runners.devices.meshes import batch_sharding
from tests.experiments.mesh_runs import tiny

MESH = {"data": 1, "fsdp": 2, "sequence": 4}
ON_EIGHT_DEVICES = """
from tests.experiments.test_split_rows import report
report({name!r}, {dtype!r})
"""


def report(name: str, dtype: str) -> None:
  """Prints, as JSON, what a step of 2 rows a device gathers along `sequence`."""
  config = tiny(name, "none", MESH)
  config.batch_size, config.precision.compute_dtype = 4, dtype
  ground = lay_ground(config)
  mesh = ground.mesh.build()
  blueprint = draw(ground, mesh)
  trainer, initializer = blueprint.trainer, blueprint.initializer
  step = jitted_train_step(trainer, initializer, mesh)
  batch = step_flops.global_batch(trainer, batch_sharding(mesh))
  compiled = step.trace(initializer.abstract, batch).lower().compile()
  found = collectives(Program(compiled.as_text()), mesh.shape)
  counts = {"num_layers": config.model.num_layers, "num_microbatches": 1}
  budget: Any = [fdl.build(each) for each in config.collective_budget]
  print(
    json.dumps(
      [[c for c in found if "sequence" in c.axes], violations(budget, found, **counts)]
    )
  )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2.Small", "lwm.TextLlama7B32K"])
def test_no_row_is_gathered_where_a_device_has_parts_of_several(name, dtype, run_with_devices):
  along, over_budget = run_with_devices(8, ON_EIGHT_DEVICES.format(name=name, dtype=dtype))
  # LLaMA's weights are split over both axes together: along `sequence` alone lie only rows.
  gathered = [c for c in along if c[:2] == ["all-gather", ["sequence"]]]
  assert sum(size for *_, size, _ in gathered) == 0, gathered
  assert {kind for kind, axes, *_ in along if axes == ["sequence"]} == {
    "collective-permute",  # the ring
    "all-reduce",  # gradients and losses, summed
  }
  assert over_budget == []
