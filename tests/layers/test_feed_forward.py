"""The feed-forward: D -> F -> D, position by position."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from layers.feed_forward import FeedForward, GatedFeedForward, gelu_exact, gelu_tanh
from layers.tokens import Tokens


def test_each_position_is_transformed_alone():
  x, tokens = jax.random.normal(jax.random.key(0), (1, 5, 8)), Tokens.unpacked(1, 5)
  module = FeedForward(activation=gelu_exact)
  params = nn.unbox(module.init(jax.random.key(1), x, tokens))
  whole = module.apply(params, x, tokens)
  single = module.apply(params, x[:, 2:3], Tokens.unpacked(1, 1))
  np.testing.assert_allclose(whole[:, 2:3], single, rtol=1e-5, atol=1e-6)


def test_the_hidden_width_is_four_times_the_model_unless_given():
  x, tokens = jnp.ones((1, 5, 8)), Tokens.unpacked(1, 5)
  for hidden_dim, want in ((None, 32), (12, 12)):
    params = nn.unbox(FeedForward(hidden_dim).init(jax.random.key(0), x, tokens))["params"]
    assert params["up"]["kernel"].shape == (8, want)


def test_residual_depth_shrinks_only_what_writes_to_the_stream():
  x, tokens = jnp.ones((1, 5, 256)), Tokens.unpacked(1, 5)
  params = nn.unbox(FeedForward(residual_depth=8).init(jax.random.key(0), x, tokens))["params"]
  np.testing.assert_allclose(params["up"]["kernel"].std(), 0.02, rtol=0.02)
  np.testing.assert_allclose(params["down"]["kernel"].std(), 0.02 / 4, rtol=0.02)


def test_both_forms_of_gelu_agree_to_three_digits():
  x = jnp.linspace(-4, 4, 101)
  np.testing.assert_allclose(gelu_tanh(x), gelu_exact(x), atol=1e-3)


def test_a_gate_multiplies_what_goes_up():
  x, tokens = jax.random.normal(jax.random.key(0), (2, 5, 8)), Tokens.unpacked(2, 5)
  module = GatedFeedForward(12, init_stddev=0.3)
  params = nn.unbox(module.init(jax.random.key(1), x, tokens))
  gate, up, down = (params["params"][name]["kernel"] for name in ("gate", "up", "down"))
  assert (gate.shape, up.shape, down.shape) == ((8, 12), (8, 12), (12, 8))
  gated = x @ gate
  want = (gated / (1 + jnp.exp(-gated)) * (x @ up)) @ down
  np.testing.assert_allclose(module.apply(params, x, tokens), want, rtol=1e-5, atol=1e-6)
