"""Law 5, as far as one core goes: dense attention is softmax(q k^T / sqrt(H)) v, masked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import Attention
from layers.attention_cores.dense import dense_attention
from layers.attention_cores.request import AttentionRequest
from layers.errors import UserError
from layers.masks import causal_mask, full_mask
from layers.tokens import Tokens


def _by_hand(query, key, value, tokens, mask):
  """One row, one head, one query at a time, in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  allowed = np.asarray(mask(tokens, tokens))
  out = np.zeros(query.shape)
  groups = query.shape[2] // key.shape[2]
  for b, t, n in np.ndindex(query.shape[:3]):
    keys = np.flatnonzero(allowed[b, t])
    scores = key[b, keys, n // groups] @ query[b, t, n] / np.sqrt(query.shape[3])
    weights = np.exp(scores - scores.max())
    out[b, t, n] = weights / weights.sum() @ value[b, keys, n // groups]
  return out


@pytest.mark.parametrize("mask", [causal_mask, full_mask])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_dense_attention_is_what_its_equation_says(num_kv_heads, mask, packed):
  _, tokens = packed
  B, T, N, H = 2, 12, 4, 8
  keys = jax.random.split(jax.random.key(0), 3)
  heads = zip(keys, (N, num_kv_heads, num_kv_heads), strict=True)
  query, key, value = (jax.random.normal(k, (B, T, n, H)) for k, n in heads)
  got = dense_attention(AttentionRequest(query, key, value, tokens, tokens, mask=mask))
  want = _by_hand(query, key, value, tokens, mask)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.bits
def test_a_query_that_may_see_nothing_gets_zero_and_no_nan():
  tokens = Tokens.unpacked(1, 3)
  value = jnp.arange(3.0).reshape(1, 3, 1, 1)
  nothing = lambda queries, keys: jnp.zeros((1, 3, 3), bool)
  ones = jnp.ones_like(value)
  got = dense_attention(AttentionRequest(ones, ones, value, tokens, tokens, mask=nothing))
  np.testing.assert_array_equal(got, 0.0)


def test_bfloat16_products_stay_close_to_float32(packed):
  _, tokens = packed
  query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 12, 4, 8))
  exact = AttentionRequest(query, key, value, tokens, tokens)
  rounded = dense_attention(dataclasses.replace(exact, compute_dtype="bfloat16"))
  exact = dense_attention(exact)
  np.testing.assert_allclose(rounded, exact, atol=0.05)
  assert rounded.dtype == jnp.float32


def test_heads_that_do_not_divide_are_refused_with_the_numbers():
  x, tokens = jnp.ones((1, 4, 30)), Tokens.unpacked(1, 4)
  with pytest.raises(UserError, match="num_heads=4 does not divide model_dim=30"):
    Attention(4).init(jax.random.key(0), x, tokens)
  with pytest.raises(UserError, match="num_kv_heads=3 does not divide num_heads=4"):
    Attention(4, 3, head_dim=8).init(jax.random.key(0), x, tokens)


def test_a_core_can_be_replaced():
  calls = []

  def core(request):
    calls.append(request.mask)
    return dense_attention(request)

  x, tokens = jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4)
  params = Attention(2).init(jax.random.key(0), x, tokens)
  own = Attention(2, core=core, mask=full_mask).apply(params, x, tokens)
  assert calls == [full_mask]
  assert own.shape == x.shape
