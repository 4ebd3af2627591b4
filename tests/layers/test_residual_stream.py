"""The stream may be split by length over the tensor axis too, and nothing else changes."""

import pytest

CODE = """
import json
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from layers.attention import Attention
from layers.block import Block
from layers.decoder import Decoder
from layers.feed_forward import GatedFeedForward
from layers.normalization import RMSNorm
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.ring import RingAttention
from layers.sharding import partitioned
from layers.tokens import Tokens
from runners.devices.meshes import DEFAULT_RULES, RESIDUAL_OVER_TENSOR
mesh = Mesh(np.array(jax.devices()).reshape(1, 1, 2, 2), ("data", "fsdp", "sequence", "tensor"))
ids, tokens = jnp.arange(2 * 16).reshape(2, 16) % 30, Tokens.unpacked(2, 16)
core = RingAttention(inner=BlockwiseAttention(query_block=4, key_block=4))
block = Block(Attention(2, core=core), GatedFeedForward(24), RMSNorm(), dropout_rate=0.1)
model = Decoder(3, 8, block, RMSNorm(), vocab_size=30, remat="full", init_stddev=0.3)
params = nn.unbox(jax.jit(model.init)(jax.random.key(0), ids, tokens))


def lowered(rules):
  def loss(params):
    with partitioned(mesh, rules):
      logits = model.apply(params, ids, tokens, rngs={"dropout": jax.random.key(1)})
    return jnp.square(logits).mean()

  return jax.jit(jax.value_and_grad(loss)).lower(params)


def run(program):
  program = program.compile()
  kept = {length: f"f32[3,2,{length},8]" in program.as_text() for length in (16, 8, 4)}
  return program(params), kept


unsaid = lowered(DEFAULT_RULES)
said = lowered((("residual_length", "sequence"), *DEFAULT_RULES))
default, kept_by_default = run(unsaid)
split, kept_split = run(lowered((*DEFAULT_RULES, *RESIDUAL_OVER_TENSOR)))
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
jax.tree.map(close, split, default)
is_same = said.as_text() == unsaid.as_text()
print(json.dumps([kept_by_default, kept_split, is_same]))
"""


@pytest.mark.slow
def test_inputs_of_layers_are_kept_in_as_many_parts_as_there_are_devices(run_with_devices):
  by_default, split, unsaid_is_length = run_with_devices(4, CODE)
  assert by_default == {"16": False, "8": True, "4": False}
  assert split == {"16": False, "8": False, "4": True}
  assert unsaid_is_length
