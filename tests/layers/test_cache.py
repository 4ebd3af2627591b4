"""Tokens one at a time with a cache have the logits that they have all at once without."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import cache
from layers.attention import Attention
from layers.block import Block
from layers.decoder import Decoder
from layers.errors import UserError
from layers.feed_forward import GatedFeedForward
from layers.masks import BlockCausal, SlidingWindow, causal_mask, full_mask
from layers.normalization import RMSNorm
from layers.rotary import Rotary
from layers.tokens import Tokens

NUM_SLOTS = 16


def make_llama(scan_layers=True, **fields):
  """Three layers with rotary positions and 4 query heads on 2 key heads."""
  attention = Attention(4, 2, rotary=Rotary(), use_bias=False, residual_depth=None, **fields)
  block = Block(attention, GatedFeedForward(hidden_dim=48, residual_depth=None), RMSNorm())
  return Decoder(
    num_layers=3,
    model_dim=32,
    vocab_size=67,
    block=block,
    norm=RMSNorm(),
    learned_positions=False,
    tied_head=False,
    scan_layers=scan_layers,
  )


@pytest.fixture(params=["gpt2", "llama"])
def make(request, make_decoder):
  return make_decoder if request.param == "gpt2" else make_llama


@pytest.fixture
def ids():
  return jax.random.randint(jax.random.key(3), (2, 14), 0, 67)


def params_of(model):
  tokens = Tokens.unpacked(1, 4)
  return nn.unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), int), tokens))[
    "params"
  ]


def steps(model, params, ids, sizes, segments=None):
  """Logits of `ids`, given in parts of these sizes, and the cache after them."""
  tokens = Tokens.unpacked(*ids.shape)
  if segments is not None:
    tokens = dataclasses.replace(tokens, segments=segments)
  variables = cache.empty_cache(model, params, ids.shape[0], NUM_SLOTS)
  apply = jax.jit(lambda *inputs: model.apply(*inputs, mutable=[cache.COLLECTION]))
  logits, start = [], 0
  for size in sizes:
    part = slice(start, start + size)
    now = dataclasses.replace(
      tokens, positions=tokens.positions[:, part], segments=tokens.segments[:, part]
    )
    out, variables = apply({"params": params} | variables, ids[:, part], now)
    logits.append(out)
    start += size
  return jnp.concatenate(logits, axis=1), variables


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("sizes", [[1] * 14, [14], [9, 1, 1, 3]], ids=["ones", "all", "parts"])
def test_logits_with_a_cache_are_those_without_at_every_position(make, ids, scan_layers, sizes):
  model = make(scan_layers=scan_layers)
  params = params_of(model)
  want = jax.jit(model.apply)({"params": params}, ids, Tokens.unpacked(*ids.shape))
  got, _ = steps(model, params, ids, sizes)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.bits
def test_padding_and_neighbours_leave_no_trace(make, ids):
  model = make()
  params = params_of(model)
  segments = jnp.ones_like(ids).at[0, 9:].set(0)  # the first row is padded to 14
  padded, variables = steps(model, params, ids, [14], segments)
  other, _ = steps(model, params, ids.at[1].set(5).at[0, 9:].set(3), [14], segments)
  np.testing.assert_array_equal(padded[0, :9], other[0, :9])
  for leaf in jax.tree.leaves(variables):
    assert not leaf[:, 0, 9:].any() and leaf[:, 1, 13].any()


def test_keys_are_kept_in_the_dtype_of_the_products(ids):
  model = make_llama(compute_dtype="bfloat16")
  params = params_of(model)
  want = jax.jit(model.apply)({"params": params}, ids, Tokens.unpacked(*ids.shape))
  got, variables = steps(model, params, ids, [14])
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("bfloat16")}
  # Rounded once, where the product would round them: nothing is lost but the order of sums.
  np.testing.assert_allclose(got, want, atol=2e-2)
  assert jax.tree.leaves(variables)[0].shape == (3, 2, NUM_SLOTS, 2, 8)


def test_a_model_that_is_not_asked_to_keeps_no_cache(make, ids):
  init = lambda: make().init(jax.random.key(0), ids, Tokens.unpacked(*ids.shape))
  variables = jax.eval_shape(init)
  assert set(variables) == {"params"}


def test_a_model_whose_layers_keep_no_cache_is_refused():
  class Blind(nn.Module):
    @nn.compact
    def __call__(self, x, tokens):
      return nn.Dense(x.shape[-1])(x)

  model = make_llama().clone(block=Blind())
  with pytest.raises(UserError, match="no layer of this model keeps a cache"):
    cache.empty_cache(model, params_of(model), 1, NUM_SLOTS)


def _says_nothing_of_its_reach(queries, keys):
  return causal_mask(queries, keys)


@pytest.mark.parametrize(
  "mask",
  [full_mask, BlockCausal(size=4), _says_nothing_of_its_reach],
  ids=["full", "blocks", "unknown"],
)
def test_a_mask_that_may_see_what_is_not_there_yet_is_refused(mask):
  model = make_llama(mask=mask)
  with pytest.raises(UserError, match="takes causal_mask"):
    cache.empty_cache(model, params_of(model), 1, NUM_SLOTS)


@pytest.mark.parametrize(
  "mask", [SlidingWindow(size=3), BlockCausal(size=1)], ids=["window", "blocks-of-one"]
)
def test_a_mask_that_sees_nothing_ahead_gives_the_same_logits_with_a_cache(ids, mask):
  model = make_llama(mask=mask)
  params = params_of(model)
  want = jax.jit(model.apply)({"params": params}, ids, Tokens.unpacked(*ids.shape))
  got, _ = steps(model, params, ids, [9, 1, 1, 3])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
