"""Rotary positions (Su et al., 2021, https://arxiv.org/abs/2104.09864), at any context length.

Feature pair i of a head turns by position * theta**(-2i / H). Pairs are (i, i + H / 2), as in
Hugging Face's checkpoints; Meta's and LWM's pair neighbours, (2i, 2i + 1).

In float32 the product of position and frequency is off by 0.006 radians at position 100,000 and
by 0.06 at a million; in bfloat16 positions beyond 256 coincide. Here an angle is a fraction of
a turn in 32-bit fixed point. Integer overflow drops whole turns exactly, so the angle is right
to a millionth of a radian at every position up to 2**24, for any dtype of the features.

Letters: B batch, T length, N heads, H head dimension.
"""

import dataclasses
import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from layers.errors import UserError
from layers.ranges import PositiveFloat, PositiveInt, Range

_TURN = 2**32


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
  """Positions divided by `factor` (Chen et al., 2023, https://arxiv.org/abs/2306.15595)."""

  factor: PositiveFloat

  def frequencies(self, theta: float, head_dim: int) -> np.ndarray:
    """Radians a position, float64 [H / 2]."""
    return _frequencies(theta, head_dim) / self.factor

  @property
  def magnitude(self) -> float:
    """What queries and keys are multiplied by."""
    return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
  """Slow pairs are slowed by `factor`, fast ones kept, with a ramp between (LLaMA 3.1, 2024).

  A pair is fast with more than `high_turns` turns within the `original_length` of pretraining,
  and slow with fewer than `low_turns`.
  """

  factor: PositiveFloat = 8.0
  low_turns: PositiveFloat = 1.0
  high_turns: PositiveFloat = 4.0
  original_length: PositiveInt = 8192

  def __post_init__(self):
    if self.low_turns >= self.high_turns:
      raise UserError(
        f"low_turns={self.low_turns} must be less than high_turns={self.high_turns}"
      )

  def frequencies(self, theta: float, head_dim: int) -> np.ndarray:
    """Radians a position, float64 [H / 2]."""
    frequencies = _frequencies(theta, head_dim)
    turns = self.original_length * frequencies / (2 * math.pi)
    kept = np.clip((turns - self.low_turns) / (self.high_turns - self.low_turns), 0, 1)
    return frequencies * (kept + (1 - kept) / self.factor)

  @property
  def magnitude(self) -> float:
    """What queries and keys are multiplied by."""
    return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnScaling:
  """YaRN (Peng et al., 2023, https://arxiv.org/abs/2309.00071, sections 3.2 to 3.4).

  Attributes:
    factor: new length over original_length.
    fast_turns, slow_turns: pairs with more than fast_turns turns within original_length are
      kept, pairs with fewer than slow_turns are slowed by `factor`, with a ramp between.
    attention_factor: multiplies queries and keys; None: 0.1 ln(factor) + 1.
    truncate: the ramp begins and ends at whole pairs.
  """

  factor: PositiveFloat
  original_length: PositiveInt
  fast_turns: PositiveFloat = 32.0
  slow_turns: PositiveFloat = 1.0
  attention_factor: PositiveFloat | None = None
  truncate: bool = True

  def __post_init__(self):
    if self.slow_turns >= self.fast_turns:
      raise UserError(
        f"slow_turns={self.slow_turns} must be less than fast_turns={self.fast_turns}"
      )

  def frequencies(self, theta: float, head_dim: int) -> np.ndarray:
    """Radians a position, float64 [H / 2]."""
    # The number of the pair (a real number) with so many turns within the original length.
    pair = lambda turns: (
      head_dim * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))
    )
    low, high = pair(self.fast_turns), pair(self.slow_turns)
    if self.truncate:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2) - low) / (0.001 if low == high else high - low)
    slowed = np.clip(ramp, 0, 1)
    return _frequencies(theta, head_dim) * (1 - slowed + slowed / self.factor)

  @property
  def magnitude(self) -> float:
    """What queries and keys are multiplied by."""
    if self.attention_factor is not None:
      return self.attention_factor
    return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
  """Turns queries and keys by their positions.

  Attributes:
    theta: the base; LLaMA's 10,000, more for longer contexts.
    scaling: how frequencies change for contexts longer than in pretraining; None: unchanged.
  """

  theta: Annotated[float, Range(above=1)] = 10_000.0
  scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None

  def __call__(self, heads: jax.Array, positions: jax.Array) -> jax.Array:
    """heads [B, T, N, H], H even, and positions [B, T] give heads of the same dtype."""
    head_dim = heads.shape[-1]
    if head_dim % 2:
      raise UserError(f"rotary positions turn pairs of features; head_dim={head_dim} is odd")
    if self.scaling is None:
      frequencies, magnitude = _frequencies(self.theta, head_dim), 1.0
    else:
      frequencies = self.scaling.frequencies(self.theta, head_dim)
      magnitude = self.scaling.magnitude
    angles = turn(positions, frequencies)[:, :, None]
    cos, sin = jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(heads.dtype)


def turn(positions: jax.Array, frequencies: np.ndarray) -> jax.Array:
  """The angle position * frequency without whole turns: float32 [..., F] in -pi .. pi.

  Args:
    positions: [...] int32, from 0 to 2**24.
    frequencies: [F] float64, radians a position.
  """
  fixed = frequencies / (2 * math.pi) * _TURN
  whole = np.floor(fixed)
  positions = positions[..., None]
  # Unsigned integers wrap around at a full turn.
  turned = positions.astype(jnp.uint32) * (whole % _TURN).astype(np.uint32)
  turned += (positions.astype(jnp.float32) * (fixed - whole).astype(np.float32)).astype(
    jnp.uint32
  )
  signed = jax.lax.bitcast_convert_type(turned, jnp.int32)
  return signed.astype(jnp.float32) * np.float32(2 * math.pi / _TURN)


def _frequencies(theta: float, head_dim: int) -> np.ndarray:
  return theta ** -(np.arange(0, head_dim, 2) / head_dim)
