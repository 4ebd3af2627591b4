"""A feed-forward in chunks is the plain one, in parameters, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.feed_forward import FeedForward, GatedFeedForward
from layers.tokens import Tokens

MAKERS = {
  "gated": lambda chunk: GatedFeedForward(12, init_stddev=0.3, chunk=chunk),
  "plain": lambda chunk: FeedForward(12, init_stddev=0.3, chunk=chunk),
  "odd": lambda chunk: GatedFeedForward(13, init_stddev=0.3, use_bias=True, chunk=chunk),
}


def assert_like_plain(kind: str, chunk: int, wrap=lambda f: f) -> None:
  """In float32, to a millionth, also where biases are not zero."""
  x = jax.random.normal(jax.random.key(0), (4, 10, 8))
  tokens = Tokens.unpacked(4, 10)
  plain, chunked = MAKERS[kind](None), MAKERS[kind](chunk)
  init = lambda module: nn.unbox(jax.jit(module.init)(jax.random.key(1), x, tokens))
  first, params = init(plain), init(chunked)
  jax.tree.map(np.testing.assert_array_equal, params, first)
  params = jax.tree.map(lambda p: p + 0.1, params)

  def loss(params, x, module):
    y = wrap(module.apply)(params, x, tokens)
    return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
  got, want = both(params, x, chunked), both(params, x, plain)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("chunk", [7, 1000])
def test_it_equals_the_plain_one(kind, chunk):
  assert_like_plain(kind, chunk)


def test_it_recomputes_under_a_policy_too():
  assert_like_plain("gated", 8, jax.checkpoint)


def test_hidden_activations_exist_for_a_chunk_only():
  x = jax.ShapeDtypeStruct((1, 4096, 16), jnp.float32)
  tokens = Tokens.unpacked(1, 4096)

  def temporary_bytes(chunk):
    module = GatedFeedForward(512, chunk=chunk)
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x, tokens))
    loss = lambda params, x: jnp.square(module.apply(params, x, tokens)).sum()
    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile()
    return program.memory_analysis().temp_size_in_bytes

  hidden = 4 * 4096 * 512
  assert temporary_bytes(None) > 2 * hidden
  assert temporary_bytes(128) < hidden / 2


def test_a_chunk_has_tokens():
  with pytest.raises(UserError, match="feed_forward.chunk=0: a chunk has at least one token"):
    FeedForward(chunk=0).init(jax.random.key(0), jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4))


CODE = """
import json
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from experiments.llama import RULES
from layers.sharding import constrain, partitioned
from layers.tokens import Tokens
from runners.devices.collectives import collectives
from runners.devices.hlo import Program
from tests.layers.test_chunked_feed_forward import MAKERS, assert_like_plain
mesh = Mesh(np.array(jax.devices()).reshape(1, 2, 2, 2), ("data", "fsdp", "sequence", "tensor"))
with partitioned(mesh, RULES):
  assert_like_plain("plain", 3)


def exchanged(chunk):
  module, tokens = MAKERS["gated"](chunk), Tokens.unpacked(4, 16)
  x = jnp.ones((4, 16, 8))
  boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), x, tokens))
  shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)
  rows = NamedSharding(mesh, P("fsdp", "sequence"))

  def loss(params, x):
    with partitioned(mesh, RULES):
      return jnp.square(module.apply(params, x, tokens)).sum()

  step = jax.jit(
    jax.grad(loss, (0, 1)), in_shardings=(shardings, rows), out_shardings=(shardings, rows)
  )
  program = Program(step.lower(nn.unbox(boxed), x).compile().as_text())
  found = collectives(program, mesh.shape)
  # An all-reduce passes each array on twice, as a reduce-scatter and an all-gather.
  passed_on = sum(one.bytes * (2 if one.kind == "all-reduce" else 1) for one in found)
  return passed_on, sum("while/body" in one.source for one in found)


print(json.dumps([*exchanged(None), *exchanged(4)]))
"""


def test_chunks_exchange_nothing_more_between_devices(run_with_devices):
  plain, _, chunked, within_chunks = run_with_devices(8, CODE)
  assert within_chunks == 0
  assert chunked <= plain
