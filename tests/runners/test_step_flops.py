"""Model FLOPs are the model's, whichever core computes its attention."""

import fiddle as fdl
import jax
import pytest

from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.dense import dense_attention
from runners.assembly import jitted_train_step
from runners.blueprint import draw, lay_ground
from runners.devices.flops import tally_traced
from runners.devices.meshes import MeshShape
from runners.step_flops import global_batch, model_flops
from tests.runners.toy_run import toy_config

ROWS, TOKENS, WIDTH, LETTERS = 8, 12, 16, 19


@pytest.fixture
def flops_of():
  """(core) -> FLOPs of the model, and of the program of one update."""

  def count(core):
    config = toy_config(mesh=fdl.Config(MeshShape))
    config.model.block.attention.core = core
    ground = lay_ground(config)
    mesh = ground.mesh.build(jax.devices()[:1])
    blueprint = draw(ground, mesh)
    trainer, initializer = blueprint.trainer, blueprint.initializer
    step = jitted_train_step(trainer, initializer, mesh)
    traced = step.trace(initializer.abstract, global_batch(trainer))
    model = model_flops(blueprint.config.model, trainer, initializer.abstract)
    return model, tally_traced(traced).flops

  return count


def test_they_are_six_times_weights_and_tokens_and_twelve_times_all_scores(flops_of):
  model, _ = flops_of(dense_attention)
  weights = 12 * WIDTH**2 + LETTERS * WIDTH  # of the layer, and of the head
  assert model == 6 * weights * ROWS * TOKENS + 12 * ROWS * TOKENS**2 * WIDTH


def test_a_core_that_leaves_blocks_out_changes_the_program_alone(flops_of):
  dense, dense_program = flops_of(dense_attention)
  core = fdl.Config(BlockwiseAttention, query_block=4, key_block=4)
  blockwise, blockwise_program = flops_of(core)
  assert blockwise == dense
  assert blockwise_program < dense_program
