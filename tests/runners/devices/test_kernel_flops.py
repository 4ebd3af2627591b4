"""A kernel counts the products that it computes: no block that its mask lets it skip."""

import types

import jax
import jax.numpy as jnp
import pytest

from layers.attention_cores.cudnn import is_installed
from layers.attention_cores.splash_kernels import Kernel
from layers.masks import causal_mask, full_mask
from layers.sharding import on_platform
from runners.devices import flops
from runners.devices.kernel_flops import attended_pairs, attention

N, T, BLOCK, H = 2, 512, 128, 128
ROW = jax.ShapeDtypeStruct((1, N, T, H), jnp.float32)
SEGMENTS = jax.ShapeDtypeStruct((1, T), jnp.int32)
# 16 pairs of blocks, of which a causal mask leaves 4 + 3 + 2 + 1; in each two products.
BLOCKS = {causal_mask: 10, full_mask: 16}
OF_A_BLOCK = 2 * (2 * BLOCK * BLOCK * H)


@pytest.mark.parametrize("mask", BLOCKS)
def test_splash_attention_counts_the_blocks_within_its_mask(mask):
  kernel = Kernel(mask, N, T, T, BLOCK, BLOCK, interpret=True)

  def attend(query, key, value, segments):
    return kernel.attend_part(query, key, value, segments, segments)

  tally = flops.tally(attend, ROW, ROW, ROW, SEGMENTS)
  assert tally.flops == N * BLOCKS[mask] * OF_A_BLOCK
  (found,) = tally.kernels
  assert found.name.startswith("splash_mha_fwd") and found.flops == tally.flops
  assert (N, T, H) in found.shapes


def test_the_blocks_are_known_within_loops_and_recomputation():
  kernel = Kernel(causal_mask, N, T, T, BLOCK, BLOCK, interpret=True)

  @jax.checkpoint
  def attend(query, key, value, segments):
    return kernel.attend_part(query, key, value, segments, segments)[0]

  def layers(query, key, value, segments):
    step = lambda x, _: (attend(x, key, value, segments), None)
    return jax.lax.scan(step, query, length=3)[0]

  counted = flops.count(jax.jit(layers), ROW, ROW, ROW, SEGMENTS)
  assert counted == 3 * N * 10 * OF_A_BLOCK


def test_gradients_of_splash_attention_take_seven_products():
  kernel = Kernel(causal_mask, N, T, T, BLOCK, BLOCK, interpret=True)
  sums = jax.ShapeDtypeStruct((1, N, T), jnp.float32)

  def gradients(*operands):
    return kernel.gradients(*operands)

  counted = flops.count(gradients, ROW, ROW, ROW, SEGMENTS, SEGMENTS, sums, ROW, sums)
  assert counted == N * 10 * OF_A_BLOCK // 2 * 7  # three for queries, four for keys and values


@pytest.mark.parametrize(
  ("queries", "keys", "options", "pairs"),
  [
    (4, 6, {"causal": False}, 24),
    (4, 4, {"causal": True}, 1 + 2 + 3 + 4),
    (4, 2, {"causal": True}, 1 + 2 + 2 + 2),
    (5, 5, {"causal": True, "window": 2}, 1 + 2 + 2 + 2 + 2),
  ],
)
def test_pairs_are_those_that_the_mask_allows(queries, keys, options, pairs):
  assert attended_pairs(queries, keys, **options) == pairs


def _cudnn(name, mask, window=None):
  """An equation like those of cuDNN's attention, rows [2, 4, 3, 16] as [B, T, N, H]."""
  operand = types.SimpleNamespace(aval=types.SimpleNamespace(shape=(2, 4, 3, 16)))
  return types.SimpleNamespace(
    primitive=types.SimpleNamespace(name=name),
    params={"mask_type": mask, "layout": 0, "sliding_window_length": window},
    invars=[operand] * 3,
  )


@pytest.mark.parametrize(
  ("name", "mask", "window", "pairs", "products"),
  [
    ("dot_product_attention_fwd_wrapper", "NO_MASK", None, 16, 2),
    ("dot_product_attention_fwd_wrapper", "CAUSAL", None, 10, 2),
    ("dot_product_attention_bwd_wrapper", "CAUSAL", None, 10, 5),
    ("dot_product_attention_bwd_wrapper", "CAUSAL", 2, 7, 5),
  ],
)
def test_cudnn_counts_two_products_forward_and_five_back(name, mask, window, pairs, products):
  assert attention(_cudnn(name, mask, window)) == products * 2 * (2 * 3) * pairs * 16


def test_what_is_no_attention_is_none():
  assert attention(_cudnn("dot_general", "NO_MASK")) is None


@pytest.mark.skipif(not is_installed(), reason="traces cuDNN: pip install 'strata[gpu-plan]'")
def test_cudnns_own_equations_are_known():
  rows = jax.ShapeDtypeStruct((2, 512, 4, 64), jnp.bfloat16)

  def attend(*heads):
    return jax.nn.dot_product_attention(*heads, is_causal=True, implementation="cudnn")

  def loss(*heads):
    return attend(*heads).astype(jnp.float32).sum()

  with on_platform("gpu"):
    counted = flops.count(jax.grad(loss, (0, 1, 2)), rows, rows, rows)
  assert counted == (2 + 5) * 2 * (2 * 4) * (512 * 513 // 2) * 64
