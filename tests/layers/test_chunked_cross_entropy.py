"""A chunked loss is the plain one, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.chunked_cross_entropy import LazyLogits
from layers.cross_entropy import token_losses

CODE = """
import json
import jax, numpy as np
from jax.sharding import Mesh
from layers.sharding import partitioned
from runners.devices.meshes import DEFAULT_RULES
from tests.layers.test_chunked_cross_entropy import assert_like_plain
mesh = Mesh(np.array(jax.devices()).reshape(1, 2, 2, 2), ("data", "fsdp", "sequence", "tensor"))
with partitioned(mesh, DEFAULT_RULES):
  assert_like_plain(vocab_size=21, columns=24, chunk=3)
  assert_like_plain(vocab_size=21, columns=21, chunk=3)  # that the mesh does not divide
print(json.dumps("equal"))
"""

SHARED = """
import json
import jax, numpy as np
from jax.sharding import Mesh
from layers.sharding import partitioned
from runners.devices.meshes import DEFAULT_RULES
from tests.layers.test_chunked_cross_entropy import assert_like_plain
mesh = Mesh(np.array(jax.devices()).reshape(1, 1, 2, 2), ("data", "fsdp", "sequence", "tensor"))
shared = ("activation_vocab", ("tensor", "sequence"))
others = [rule for rule in DEFAULT_RULES if rule[0] != "activation_vocab"]
for rules in ((shared, *others), (*others, shared)):
  with partitioned(mesh, rules):
    assert_like_plain(vocab_size=21, columns=24, chunk=3)
print(json.dumps("equal"))
"""


def assert_like_plain(vocab_size: int, columns: int, chunk: int) -> None:
  """In float32, to a millionth."""
  keys = jax.random.split(jax.random.key(0), 4)
  features = jax.random.normal(keys[0], (4, 10, 8))
  kernel = jax.random.normal(keys[1], (8, columns))
  targets = jax.random.randint(keys[2], (4, 10), 0, vocab_size)
  weights = jax.random.uniform(keys[3], (2, 4, 10))

  def loss(features, kernel, chunked):
    logits = LazyLogits(features, kernel, vocab_size, chunk, "float32")
    nll, log_z = logits.losses(targets) if chunked else token_losses(logits.whole(), targets)
    return (weights[0] * nll + weights[1] * jnp.square(log_z)).sum(), (nll, log_z)

  both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
  got, want = both(features, kernel, True), both(features, kernel, False)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_it_equals_the_plain_loss(chunk):
  assert_like_plain(vocab_size=21, columns=24, chunk=chunk)


def test_it_does_so_where_tokens_and_vocabulary_are_split(run_with_devices):
  assert run_with_devices(8, CODE) == "equal"


def test_it_does_so_where_rules_split_both_over_one_axis(run_with_devices):
  assert run_with_devices(4, SHARED) == "equal"


EXCHANGED = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from layers.chunked_cross_entropy import LazyLogits
from layers.sharding import partitioned
from runners.devices.flops import programs_within
from runners.devices.meshes import DEFAULT_RULES

def exchanges(program):
  for equation in program.eqns:
    if equation.primitive.name in ("all_gather", "reduce_scatter", "optimization_barrier"):
      sizes = [(x.aval.dtype.name, *x.aval.shape) for x in equation.invars]
      yield equation.primitive.name, sizes
    for inner in programs_within(equation.params):
      yield from exchanges(inner)

def loss(features, kernel):
  losses, _ = LazyLogits(features, kernel, 32, 4, "bfloat16").losses(jnp.ones((4, 6), int))
  return losses.sum()

mesh = Mesh(np.array(jax.devices()).reshape(1, 4, 1, 1), ("data", "fsdp", "sequence", "tensor"))
with partitioned(mesh, DEFAULT_RULES):
  arrays = jnp.ones((4, 6, 8), jnp.bfloat16), jnp.ones((8, 32))
  print(json.dumps(list(exchanges(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*arrays).jaxpr))))
"""


def test_the_matrix_travels_rounded_and_layers_wait_for_its_gradient(run_with_devices):
  assert run_with_devices(4, EXCHANGED) == [
    ["all_gather", [["bfloat16", 2, 32]]],
    ["reduce_scatter", [["float32", 8, 32]]],
    ["optimization_barrier", [["bfloat16", 2, 4, 8], ["float32", 2, 32]]],
  ]
