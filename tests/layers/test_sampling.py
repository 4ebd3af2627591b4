"""A token is drawn from the distribution that temperature, top_k and top_p leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.sampling import Sampling

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
DRAWS = 20_000


def frequencies(**rules):
  """How often each id is drawn."""
  logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (DRAWS, 5))
  ids = jax.jit(Sampling(**rules))(logits, jax.random.split(jax.random.key(0), DRAWS))
  assert ids.dtype == jnp.int32
  return np.bincount(ids, minlength=5) / DRAWS


def normalised(weights):
  return np.asarray(weights) / np.sum(weights)


# By hand: p ** (1 / temperature), then the k largest, then the fewest with top_p together.
@pytest.mark.parametrize(
  "rules, want",
  [
    ({}, PROBABILITIES),
    ({"temperature": 0.5}, normalised(PROBABILITIES**2)),
    ({"temperature": 2.0}, normalised(PROBABILITIES**0.5)),
    ({"top_k": 2}, normalised([0, 0.4, 0, 0.25, 0])),
    ({"top_k": 99}, PROBABILITIES),
    ({"top_p": 1.0}, PROBABILITIES),
    ({"top_p": 0.6}, normalised([0, 0.4, 0, 0.25, 0])),
    ({"top_p": 0.7}, normalised([0, 0.4, 0, 0.25, 0.2])),
    # Of the two largest the first alone has 0.4 / 0.65 = 0.62.
    ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0, 0]),
    # Squared: 0.16, 0.0625, 0.04 ... of 0.275: the first two have 0.81.
    ({"temperature": 0.5, "top_p": 0.8}, normalised([0, 0.16, 0, 0.0625, 0])),
  ],
)
def test_frequencies_are_the_probabilities_that_the_rules_leave(rules, want):
  got = frequencies(**rules)
  np.testing.assert_allclose(got, want, atol=0.015)  # four standard deviations
  assert not got[np.asarray(want) == 0].any()


@pytest.mark.bits
@pytest.mark.parametrize("rules", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_zero_temperature_one_candidate_and_a_tiny_nucleus_are_greedy(rules):
  logits = jax.random.normal(jax.random.key(1), (200, 31)).round(1)  # with ties
  keys = jax.random.split(jax.random.key(2), 200)
  np.testing.assert_array_equal(Sampling(**rules)(logits, keys), logits.argmax(-1))


@pytest.mark.parametrize("rules", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_a_row_is_drawn_by_its_own_key_whatever_is_beside_it(rules):
  logits = jax.random.normal(jax.random.key(1), (8, 31))
  keys = jax.random.split(jax.random.key(2), 8)
  together = Sampling(**rules)(logits, keys)
  alone = [int(Sampling(**rules)(logits[i : i + 1], keys[i : i + 1])[0]) for i in range(8)]
  assert together.tolist() == alone


@pytest.mark.parametrize(
  "rules, message",
  [
    ({"temperature": -0.1}, "temperature=-0.1 must be a number from 0"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"temperature": float("inf")}, "temperature=inf"),
    ({"top_k": 0}, "top_k=0 must be at least 1"),
    ({"top_p": 0.0}, "top_p=0.0 must be more than 0"),
    ({"top_p": 1.1}, "top_p=1.1 must be more than 0 and at most 1"),
  ],
)
def test_rules_out_of_range_are_refused(rules, message):
  with pytest.raises(UserError, match=message):
    Sampling(**rules)
