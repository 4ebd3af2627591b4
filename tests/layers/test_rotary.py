"""Rotary positions are exact at any distance, relative, and scaled as published."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.errors import UserError
from layers.rotary import LinearScaling, Llama3Scaling, Rotary, YarnScaling, turn

H = 64
POSITIONS = np.array([0, 1, 7, 255, 256, 257, 4095, 100_003, 131_071, 1_048_575, 2**24 - 1])


def in_float64(heads, positions, frequencies, magnitude=1.0):
  """The same rotation of [B, T, N, H] by the textbook, in float64."""
  angles = (positions[..., None].astype(np.float64) * frequencies)[:, :, None]
  first, second = np.split(np.asarray(heads, np.float64), 2, axis=-1)
  cos, sin = np.cos(angles) * magnitude, np.sin(angles) * magnitude
  return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def frequencies(theta, head_dim=H):
  return np.array([theta ** (-2 * i / head_dim) for i in range(head_dim // 2)])


def random_heads(num_positions, dtype=np.float32):
  return jax.random.normal(jax.random.key(0), (1, num_positions, 2, H), dtype)


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6, 1e7, 5e7])
def test_angles_are_those_of_float64_at_every_position(theta):
  want = np.mod(POSITIONS[:, None] * frequencies(theta) + math.pi, 2 * math.pi) - math.pi
  got = np.asarray(turn(jnp.asarray(POSITIONS), frequencies(theta)), np.float64)
  apart = np.abs(np.mod(got - want + math.pi, 2 * math.pi) - math.pi)
  assert apart.max() < 1e-6


@pytest.mark.parametrize("theta", [1e4, 5e7])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2**-8)])
def test_heads_turn_as_in_float64_beyond_256_and_beyond_100_000(theta, dtype, tolerance):
  heads = random_heads(len(POSITIONS), dtype)
  got = Rotary(theta=theta)(heads, jnp.asarray(POSITIONS)[None])
  assert got.dtype == dtype
  want = in_float64(heads.astype(np.float32), POSITIONS[None], frequencies(theta))
  np.testing.assert_allclose(got.astype(np.float32), want, rtol=tolerance, atol=4 * tolerance)


def test_neighbouring_positions_stay_apart_in_bfloat16_where_angles_in_it_would_not():
  positions = jnp.array([[100_000, 100_001]])
  same = jnp.broadcast_to(random_heads(1, "bfloat16"), (1, 2, 2, H))
  turned = np.asarray(Rotary()(same, positions), np.float32)
  assert np.abs(turned[0, 0] - turned[0, 1]).max() > 0.5
  assert jnp.bfloat16(100_000) == jnp.bfloat16(100_001)


@pytest.mark.parametrize("shift", [1, 1000, 1_000_000])
def test_scores_depend_on_the_distance_alone(shift):
  query, key = random_heads(4), random_heads(4) * 0.5 + 1
  scores = []
  for start in (0, shift):
    positions = jnp.arange(start, start + 4)[None]
    rotary = Rotary(theta=1e6)
    scores.append(
      jnp.einsum("btnh,bsnh->bnts", rotary(query, positions), rotary(key, positions))
    )
  np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-4)


def test_linear_scaling_divides_positions():
  heads = random_heads(3)
  got = Rotary(scaling=LinearScaling(factor=4.0))(heads, jnp.array([[0, 4, 400]]))
  np.testing.assert_allclose(got, Rotary()(heads, jnp.array([[0, 1, 100]])), atol=1e-5)


def test_llama_3_keeps_fast_pairs_and_slows_slow_ones():
  scaling = Llama3Scaling(factor=8.0, original_length=8192)
  plain, scaled = frequencies(5e5, 128), scaling.frequencies(5e5, 128)
  turns = 8192 * plain / (2 * math.pi)
  np.testing.assert_allclose(scaled[turns > 4], plain[turns > 4])
  np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
  between = (turns > 1) & (turns < 4)
  smooth = (turns[between] - 1) / 3
  assert between.sum() > 3 and scaling.magnitude == 1.0
  np.testing.assert_allclose(
    scaled[between], (1 - smooth) * plain[between] / 8 + smooth * plain[between]
  )


def test_yarn_ramps_between_the_pairs_of_32_turns_and_of_one():
  scaling = YarnScaling(factor=4.0, original_length=4096)
  plain, scaled = frequencies(1e4), scaling.frequencies(1e4, H)
  pair = lambda turns: H * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(1e4))
  low, high = math.floor(pair(32)), math.ceil(pair(1))
  assert 0 < low < high < H // 2
  np.testing.assert_allclose(scaled[: low + 1], plain[: low + 1])
  np.testing.assert_allclose(scaled[high:], plain[high:] / 4)
  halfway = (low + high) // 2
  part = (halfway - low) / (high - low)
  assert scaled[halfway] == pytest.approx(plain[halfway] * (1 - part + part / 4))
  assert scaling.magnitude == pytest.approx(0.1 * math.log(4) + 1)
  assert YarnScaling(factor=1.0, original_length=4096).magnitude == 1.0


def test_yarn_multiplies_queries_and_keys():
  scaling = YarnScaling(factor=4.0, original_length=4096, attention_factor=2.0)
  heads = random_heads(2)
  got = Rotary(scaling=scaling)(heads, jnp.array([[5, 9]]))
  want = in_float64(heads, np.array([[5, 9]]), scaling.frequencies(1e4, H), 2.0)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_an_odd_head_is_refused():
  with pytest.raises(UserError, match="head_dim=5 is odd"):
    Rotary()(jnp.ones((1, 2, 1, 5)), jnp.zeros((1, 2), int))
