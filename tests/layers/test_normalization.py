"""LayerNorm centres and scales in float32, whatever comes in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from layers.normalization import LayerNorm, standardize


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
