"""Laws 4 and 5: blockwise attention is dense attention, forward and backward."""

import math

import jax
import jax.numpy as jnp
import pytest

from layers.attention import Attention
from layers.attention_cores.block_pairs import Blocks
from layers.attention_cores.blockwise import BlockwiseAttention, pairs
from layers.attention_cores.request import AttentionRequest
from layers.errors import UserError
from layers.masks import SlidingWindow, causal_mask, full_mask
from layers.tokens import Tokens
from runners.devices.flops import programs_within
from tests.layers.attention_batches import CASES, MASKS, assert_like_dense, batch


@pytest.mark.parametrize(("layout", "mask"), CASES)
def test_it_equals_the_dense_reference(layout, mask):
  core = BlockwiseAttention(query_block=8, key_block=5)
  assert_like_dense(core, batch(layout, 37), MASKS[mask])


@pytest.mark.parametrize(("length", "num_kv_heads"), [(1, 4), (7, 1), (32, 4)])
def test_it_does_so_for_any_groups_and_lengths(length, num_kv_heads):
  core = BlockwiseAttention(query_block=8, key_block=16)
  assert_like_dense(core, batch("whole", length, num_kv_heads=num_kv_heads), causal_mask)


def test_causal_blocks_cost_little_more_than_half_of_all():
  causal, full = (Blocks(64, 64, mask, "float32") for mask in (causal_mask, full_mask))
  assert len(pairs(1024, 1024, full)) == 256
  assert len(pairs(1024, 1024, causal)) == 136 <= 0.6 * 256


def test_a_window_costs_as_much_as_it_is_wide():
  windowed = Blocks(64, 64, SlidingWindow(size=65), "float32")
  assert len(pairs(1024, 1024, windowed)) == 16 + 15


def test_attention_weights_cannot_be_dropped():
  with pytest.raises(
    UserError, match="BlockwiseAttention has no dropout .* core=@dense_attention"
  ):
    Attention(2, core=BlockwiseAttention(), dropout_rate=0.1).init(
      {"params": jax.random.key(0), "dropout": jax.random.key(1)},
      jnp.ones((1, 4, 8)),
      Tokens.unpacked(1, 4),
    )


SHARDED = """
import json
import jax, numpy as np
from jax.sharding import Mesh
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.sharding import partitioned
from layers.masks import causal_mask
from runners.devices.meshes import DEFAULT_RULES
from tests.layers.attention_batches import assert_like_dense, batch
mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))
with partitioned(mesh, DEFAULT_RULES):
  core = BlockwiseAttention(query_block=8, key_block=8)
  assert_like_dense(core, batch("packed", 20, num_rows=4), causal_mask)
  assert_like_dense(core, batch("packed", 20, num_rows=3, num_kv_heads=1), causal_mask)
print(json.dumps("equal"))
"""


def test_on_a_mesh_each_device_attends_with_its_rows_and_heads(run_with_devices):
  assert run_with_devices(8, SHARDED) == "equal"


def test_a_scan_over_layers_keeps_no_mask():
  # What follows from coordinates alone is the same in every layer, and could be kept for all.
  batch, length, blocks = 1, 512, 8
  core = BlockwiseAttention(query_block=length // blocks, key_block=length // blocks)
  x = jnp.zeros((batch, length, 2, 16))
  tokens = Tokens(*jnp.ones((2, batch, length), jnp.int32), jnp.zeros(batch, jnp.int32))

  def loss(x):
    attend = lambda x: core(AttentionRequest(x, x, x, tokens, tokens))
    layer = jax.checkpoint(lambda x, _: (x + attend(x), None))
    return jax.lax.scan(layer, x, jnp.zeros(4))[0].sum()

  largest = max(_sizes(jax.make_jaxpr(jax.grad(loss))(x).jaxpr))
  assert largest <= 4 * x.size < length**2 // 2


def _sizes(jaxpr):
  """Of every array in a program, those of the programs within it too."""
  for equation in jaxpr.eqns:
    yield from (math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
    for inner in programs_within(equation.params):
      yield from _sizes(inner)
