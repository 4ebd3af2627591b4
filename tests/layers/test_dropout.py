"""What is dropped depends on the key and the row's number, not on how the batch is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.dropout import Dropout, drop


@pytest.mark.bits
def test_a_row_drops_the_same_elements_in_any_batch():
  x, key = jnp.ones((4, 6, 8)), jax.random.key(0)
  whole = drop(x, 0.5, key, jnp.arange(4))
  parts = [drop(x[i : i + 1], 0.5, key, jnp.array([i])) for i in range(4)]
  np.testing.assert_array_equal(whole, jnp.concatenate(parts))
  assert not np.array_equal(whole[0], whole[1])


def test_dropout_keeps_the_mean_and_drops_the_stated_share():
  dropped = drop(jnp.ones((8, 10_000)), 0.25, jax.random.key(0), jnp.arange(8))
  np.testing.assert_allclose((dropped == 0).mean(), 0.25, atol=0.01)
  np.testing.assert_allclose(dropped.mean(), 1.0, atol=0.01)


@pytest.mark.bits
def test_without_a_key_nothing_is_dropped():
  x = jnp.ones((2, 3))
  np.testing.assert_array_equal(Dropout(0.9).apply({}, x, jnp.arange(2)), x)
