"""Laws 4 and 5: ring attention on any ring is dense attention, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import Attention
from layers.attention_cores.block_pairs import Blocks
from layers.attention_cores.ring import RingAttention, met_pairs, own_pairs
from layers.attention_cores.splash import SplashAttention
from layers.attention_cores.splash_kernels import Kernel
from layers.errors import UserError
from layers.masks import SlidingWindow, causal_mask, full_mask
from layers.sharding import on_platform
from layers.tokens import Tokens

CODE = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.ring import RingAttention
from layers.sharding import partitioned
from runners.devices.meshes import DEFAULT_RULES
from tests.layers.attention_batches import *
shape, cases, length = {shape}, {cases}, {length}
mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "fsdp", "sequence", "tensor"))
with partitioned(mesh, DEFAULT_RULES):
  core = RingAttention(inner=BlockwiseAttention(query_block=4, key_block=3))
  for layout, mask in cases:
    assert_like_dense(core, batch(layout, length), MASKS[mask])
    assert_documents_apart(core, batch(layout, length), MASKS[mask])
print(json.dumps("equal"))
"""

FLASH = """
import json
import jax, numpy as np
from jax.sharding import Mesh
from layers.attention_cores.ring import RingAttention
from layers.sharding import partitioned
from layers.attention_cores.splash import SplashAttention
from tests.layers.attention_batches import *
mesh = Mesh(np.array(jax.devices()), ("sequence",))
with partitioned(mesh, [("batch", None), ("length", "sequence"), ("activation_heads", None)]):
  core = RingAttention(inner=SplashAttention(query_block=128, key_block=128))
  assert_like_dense(core, {case}, MASKS["{mask}"])
  assert_documents_apart(core, {case}, MASKS["{mask}"])
print(json.dumps("equal"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("ring", "masks"),
  [(2, ["full"]), (3, ["window", "block_causal"]), (5, ["causal"]), (8, ["causal"])],
)
def test_rings_of_any_size_equal_the_dense_reference(ring, masks, run_with_devices):
  cases = [("packed", mask) for mask in masks]
  code = CODE.format(shape=(1, 1, ring, 1), cases=cases, length=8 * ring + 3)
  assert run_with_devices(ring, code) == "equal"


@pytest.mark.slow
def test_a_ring_beside_other_axes_equals_the_dense_reference(run_with_devices):
  code = CODE.format(shape=(1, 2, 2, 2), cases='[("packed", "causal")]', length=32)
  assert run_with_devices(8, code) == "equal"


@pytest.mark.slow
@pytest.mark.parametrize(("ring", "mask"), [(3, "causal"), (2, "full")])
def test_rings_of_flash_kernels_equal_the_dense_reference(ring, mask, run_with_devices):
  case = f'batch("packed", {256 * ring - 30}, num_heads=2, num_kv_heads=1, num_rows=1)'
  code = FLASH.format(ring=ring, case=case, mask=mask)
  assert run_with_devices(ring, code) == "equal"


def _ring_of_one(**fields):
  return Attention(2, core=RingAttention(inner=SplashAttention()), **fields).init(
    jax.random.key(0), jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4)
  )


def test_a_mask_that_the_inner_kernels_do_not_know_is_refused():
  with pytest.raises(
    UserError, match="inner=SplashAttention does not know .* leave inner unset"
  ):
    _ring_of_one(mask=SlidingWindow(size=3))


def test_splash_steps_are_refused_on_a_gpu():
  with (
    on_platform("gpu"),
    pytest.raises(UserError, match=r"runs on TPU: .*@RingAttention\(\) with inner unset"),
  ):
    _ring_of_one()


def test_the_gradients_of_some_keys_are_the_library_s():
  """Held against autodiff over all keys: the function that gives them is not public."""
  kernel = Kernel(full_mask, 2, 128, 128, 128, 128, interpret=True)
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = [(1, 2, 128, 8), (1, 1, 256, 8), (1, 1, 256, 8), (1, 2, 128, 8)]
  query, key, value, gradient = map(jax.random.normal, keys, shapes)
  segments = jnp.ones((1, 128), jnp.int32)

  def dense(query, key, value):
    scores = jnp.einsum("bnth,bksh->bnts", query, key)
    return jnp.einsum("bnts,bksh->bnth", jax.nn.softmax(scores), value), scores

  mixed, pullback, scores = jax.vjp(dense, query, key, value, has_aux=True)
  wanted = pullback(gradient)
  log_sum, delta = jax.nn.logsumexp(scores, axis=-1), (mixed * gradient).sum(axis=-1)
  halves = [
    jax.jit(kernel.gradients)(query, k, v, segments, segments, log_sum, gradient, delta)
    for k, v in zip(jnp.split(key, 2, 2), jnp.split(value, 2, 2), strict=True)
  ]
  dkeys = (jnp.concatenate(xs, 2) for xs in list(zip(*halves, strict=True))[1:])
  found = halves[0][0] + halves[1][0], *dkeys
  for got, want in zip(found, wanted, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_most_loaded_device_of_eight_does_as_much_as_the_mean():
  length, ring, blocks = 128, 8, Blocks(16, 16, causal_mask, "float32")
  work = [len(own_pairs(length, blocks)) for _ in range(ring)]
  for here in range(ring):
    for there in range(ring):
      if there != here:
        work[here] += len(met_pairs(length, blocks, there > here))
  assert max(work) <= 1.1 * sum(work) / ring
  assert sum(work) <= 0.6 * (ring * length // 16) ** 2
