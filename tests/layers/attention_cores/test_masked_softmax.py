"""Law 5 for the function under every dense core: forward and backward as autodiff has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention_cores.masked_softmax import attend

N, T, S, H = 3, 6, 6, 4


def _reference(query, key, value, allowed, kept):
  scores = jnp.einsum("nth,nsh->nts", query, key)
  weights = jax.nn.softmax(jnp.where(allowed, scores, jnp.finfo(jnp.float32).min))
  weights *= allowed.any(axis=-1, keepdims=True)
  return jnp.einsum("nts,nsh->nth", weights if kept is None else weights * kept, value)


def _case(with_dropout=False, empty_row=False):
  keys = jax.random.split(jax.random.key(0), 5)
  query, key, value = (jax.random.normal(k, (N, T, H)) for k in keys[:3])
  allowed = jnp.tril(jnp.ones((T, S), bool)) & jax.random.bernoulli(keys[3], 0.7, (N, T, S))
  allowed |= jnp.eye(T, S, dtype=bool)
  if empty_row:
    allowed = allowed.at[1, 2].set(False)
  kept = jax.random.bernoulli(keys[4], 0.7, (N, T, S)) / 0.7 if with_dropout else None
  return query, key, value, allowed, kept


def _gradients(function, case):
  query, key, value, allowed, kept = case
  target = jnp.cos(jnp.arange(N * T * H, dtype=jnp.float32)).reshape(N, T, H)
  total = lambda *x: (target * function(*x, allowed, kept)).sum()
  return jax.grad(total, (0, 1, 2))(query, key, value)


def _attend(compute_dtype="float32"):
  return lambda *arguments: attend(*arguments, compute_dtype)


@pytest.mark.parametrize("empty_row", [False, True], ids=["", "empty-row"])
@pytest.mark.parametrize("with_dropout", [False, True], ids=["", "dropout"])
def test_values_and_gradients_are_those_of_a_masked_softmax(with_dropout, empty_row):
  case = _case(with_dropout, empty_row)
  np.testing.assert_allclose(_attend()(*case), _reference(*case), rtol=1e-5, atol=1e-6)
  for got, want in zip(_gradients(_attend(), case), _gradients(_reference, case), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_row_that_may_see_nothing_gives_nothing_and_no_gradient():
  case = _case(empty_row=True)
  assert (_attend()(*case)[1, 2] == 0).all()
  dquery, dkey, _ = _gradients(_attend(), case)
  assert (dquery[1, 2] == 0).all()
  assert jnp.isfinite(dkey).all()


@pytest.mark.parametrize("with_dropout", [False, True], ids=["", "dropout"])
def test_bfloat16_products_stay_close_and_keep_the_dtypes(with_dropout):
  case = _case(with_dropout)
  got = _attend("bfloat16")(*case)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, _reference(*case), atol=0.05)
  exact = _gradients(_reference, case)
  for x, want in zip(_gradients(_attend("bfloat16"), case), exact, strict=True):
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, want, atol=0.1)


def test_gradients_have_the_dtypes_of_what_they_are_gradients_of():
  query, key, value, allowed, kept = _case()
  case = (query.astype(jnp.bfloat16), key, value.astype(jnp.bfloat16), allowed, kept)
  dtypes = [x.dtype for x in _gradients(_attend("bfloat16"), case)]
  assert dtypes == [jnp.bfloat16, jnp.float32, jnp.bfloat16]


def test_scores_far_apart_overflow_nothing():
  query, key, value, allowed, kept = _case()
  case = (1e3 * query, 1e3 * key, value, allowed, kept)
  np.testing.assert_allclose(_attend()(*case), _reference(*case), rtol=1e-4, atol=1e-5)
  assert all(jnp.isfinite(x).all() for x in _gradients(_attend(), case))
