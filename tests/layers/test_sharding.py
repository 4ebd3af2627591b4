"""A mesh axis serves an array once, on every device as in the compiler's layouts."""

CODE = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from layers.attention_cores.ring import RingAttention
from layers.sharding import axis_devices, partitioned, per_device
from runners.devices.meshes import DEFAULT_RULES
from tests.layers.attention_batches import *
from tests.layers.test_chunked_feed_forward import assert_like_plain as assert_like_whole
mesh = Mesh(np.array(jax.devices()).reshape(1, 2, 1, 2), ("data", "fsdp", "sequence", "tensor"))

def rules(name, axes, first):
  others = [rule for rule in DEFAULT_RULES if rule[0] != name]
  return [(name, axes), *others] if first else [*others, (name, axes)]

def parts(*inputs):
  local = per_device(lambda *xs: jnp.array(xs[0].shape)[None], inputs, inputs[0][:1])
  return local(*(jnp.ones((4,) * len(names)) for names in inputs))[0].tolist()

heads, tokens, found = ("batch", "length", "activation_heads"), ("batch", "length"), []
for first in (True, False):
  with partitioned(mesh, rules("length", ("sequence", "tensor"), first)):
    found.append(parts(heads, heads))
    found.append(parts(heads, tokens))
    found.append(axis_devices("length", (heads, tokens))[1])
    assert_like_dense(RingAttention(), batch("packed", 24), MASKS["causal"])
  with partitioned(mesh, rules("mlp", ("tensor", "fsdp"), first)):
    assert_like_whole("gated", 7)
print(json.dumps(found))
"""


def test_a_mesh_axis_that_two_rules_give_splits_one_dimension(run_with_devices):
  # Rows over fsdp; length before heads over tensor, and after them. Where tokens and heads
  # have it in two ways, length is whole.
  assert run_with_devices(4, CODE) == [[2, 2, 4], [2, 2, 4], 2, [2, 4, 2], [2, 4, 2], 1]
