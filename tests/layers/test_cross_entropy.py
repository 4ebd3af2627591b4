"""The backward pass written by hand is the one that autodiff gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.cross_entropy import token_losses
from layers.sharding import on_platform

B, T, V = 2, 5, 7


def _reference(logits, targets):
  log_z = jax.nn.logsumexp(logits, axis=-1)
  log_probabilities = jax.nn.log_softmax(logits, axis=-1)
  return -jnp.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0], log_z


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def platform(request):
  """Where logits are read for their maximum and then for their sum, or once for both."""
  with on_platform(request.param):
    yield request.param


@pytest.fixture
def batch():
  keys = jax.random.split(jax.random.key(0), 2)
  logits = 3 * jax.random.normal(keys[0], (B, T, V))
  return logits, jax.random.randint(keys[1], (B, T), 0, V)


def test_the_losses_are_those_of_log_softmax(batch):
  for got, want in zip(token_losses(*batch), _reference(*batch), strict=True):
    assert got.shape == (B, T)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nll_scale, z_scale", [(1.0, 0.0), (0.0, 1.0), (0.7, 1e-2)])
def test_gradients_are_those_of_autodiff_through_both_results(batch, nll_scale, z_scale):
  logits, targets = batch
  weights = jnp.linspace(0.0, 1.0, B * T).reshape(B, T)

  def total(losses, logits):
    nll, log_z = losses(logits, targets)
    return (weights * (nll_scale * nll + z_scale * log_z**2)).sum()

  got = jax.grad(lambda x: total(token_losses, x))(logits)
  want = jax.grad(lambda x: total(_reference, x))(logits)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert jnp.abs(want).max() > 1e-2


def test_huge_logits_and_padded_ids_of_the_vocabulary_give_no_nan():
  lowest = jnp.finfo(jnp.float32).min  # what a padded id has
  logits = jnp.array([[[1e4, -1e4, 0.0, lowest]]])
  targets = jnp.array([[1]])
  nll, log_z = token_losses(logits, targets)
  np.testing.assert_allclose(nll, 2e4)
  np.testing.assert_allclose(log_z, 1e4)
  gradient = jax.grad(lambda x: token_losses(x, targets)[0].sum())(logits)
  np.testing.assert_allclose(gradient, [[[1.0, -1.0, 0.0, 0.0]]])
