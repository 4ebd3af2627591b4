"""Norms centre and scale in float32, whatever comes in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.normalization import LayerNorm, RMSNorm, standardize
from layers.sharding import on_platform


def test_layer_norm_has_mean_zero_and_variance_one_at_first():
  x = 5 + 3 * jax.random.normal(jax.random.key(0), (4, 64))
  module = LayerNorm()
  y = module.apply(nn.unbox(module.init(jax.random.key(0), x)), x)
  np.testing.assert_allclose(y.mean(-1), 0.0, atol=1e-5)
  np.testing.assert_allclose(y.var(-1), 1.0, atol=1e-4)


def test_a_large_mean_does_not_swallow_the_variance():
  x = 1e4 + jax.random.normal(jax.random.key(0), (4, 64))
  module = LayerNorm()
  y = module.apply(nn.unbox(module.init(jax.random.key(0), x)), x)
  np.testing.assert_allclose(y.var(-1), 1.0, atol=1e-2)


def test_the_result_has_the_dtype_of_the_input_and_no_bias_unless_asked():
  x = jnp.ones((2, 8), jnp.bfloat16)
  module = LayerNorm(use_bias=False)
  params = nn.unbox(module.init(jax.random.key(0), x))
  assert set(params["params"]) == {"scale"}
  assert module.apply(params, x).dtype == jnp.bfloat16


def test_the_gradient_is_that_of_autodiff():
  x = 3 + jax.random.normal(jax.random.key(0), (4, 16))
  weights = jax.random.normal(jax.random.key(1), (4, 16))

  def plain(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)

  got = jax.grad(lambda x: (weights * jnp.sin(standardize(x, 1e-5))).sum())(x)
  want = jax.grad(lambda x: (weights * jnp.sin(plain(x))).sum())(x)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_rms_norm_divides_by_the_root_of_the_mean_square_in_float32():
  x = 5 + 300 * jax.random.normal(jax.random.key(0), (4, 64))
  module = RMSNorm(epsilon=1e-5)
  params = nn.unbox(module.init(jax.random.key(0), x))
  assert jax.tree.map(jnp.shape, params["params"]) == {"scale": (64,)}
  params["params"]["scale"] = jnp.arange(64.0)
  want = np.asarray(x, np.float64)
  want /= np.sqrt(np.square(want).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(module.apply(params, x), want * np.arange(64), rtol=1e-5)
  low = module.apply(params, x.astype(jnp.bfloat16))
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(np.float32), want * np.arange(64), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("norm", [LayerNorm(), LayerNorm(use_bias=False)])
def test_on_accelerators_values_and_gradients_are_those_of_a_cpu(norm):
  keys = jax.random.split(jax.random.key(0), 3)
  x, weights = 3 + 2 * jax.random.normal(keys[0], (2, 4, 16)), jax.random.normal(keys[1], (16,))
  params = jax.tree.map(
    lambda p: p + jax.random.normal(keys[2], p.shape), nn.unbox(norm.init(keys[0], x))
  )
  results = lambda: jax.value_and_grad(
    lambda x, params: (weights * jnp.sin(norm.apply(params, x))).sum(), (0, 1)
  )(x, params)
  want = results()
  with on_platform("gpu"):
    got = results()
    low = norm.apply(params, x.astype(jnp.bfloat16))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, got, want)
  assert low.dtype == jnp.bfloat16
