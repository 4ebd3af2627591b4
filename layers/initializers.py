"""Initial values of parameters."""

import math

import flax.linen as nn


def normal(stddev: float) -> nn.initializers.Initializer:
  """Normal with this standard deviation, regardless of fan-in (GPT-2 and LLaMA: 0.02)."""
  return nn.initializers.normal(stddev)


def residual(stddev: float, depth: int | None) -> nn.initializers.Initializer:
  """For projections that write to the residual stream: stddev / sqrt(2 * depth).

  The stream is a sum of 2 * depth such terms, so this keeps its variance independent of
  depth (Radford et al., 2019, section 2.3). `depth` None leaves stddev as it is.
  """
  return normal(stddev / math.sqrt(2 * depth) if depth else stddev)
