"""Initial values of parameters."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.core


def normal(stddev: float) -> nn.initializers.Initializer:
  """Normal with this standard deviation, regardless of fan-in (GPT-2 and LLaMA: 0.02)."""
  return nn.initializers.normal(stddev)


def residual(stddev: float, depth: int | None) -> nn.initializers.Initializer:
  """For projections that write to the residual stream: stddev / sqrt(2 * depth).

  The stream is a sum of 2 * depth such terms, so this keeps its variance independent of
  depth (Radford et al., 2019, section 2.3). `depth` None leaves stddev as it is.
  """
  return normal(stddev / math.sqrt(2 * depth) if depth else stddev)


def one_by_one(init: Callable[[jax.Array], Any], keys: jax.Array) -> list[Any]:
  """[init(key) for key in keys], to the bit, traced and compiled once for all keys.

  Args:
    init: key -> a tree of arrays, the same shapes for every key.
    keys: [number of trees] of PRNG keys.
  """
  if not isinstance(keys, jax.core.Tracer):
    return [init(key) for key in keys]  # op by op: a compiled loop would round differently
  # The barrier keeps the computation apart from the writing of its result into the stack. On
  # CPU the last bit of an element depends on the shape of the loop that computes it.
  stacked = jax.lax.map(lambda key: jax.lax.optimization_barrier(init(key)), keys)
  pick = lambda i: jax.tree.map(lambda x: jax.lax.index_in_dim(x, i, keepdims=False), stacked)
  return [pick(i) for i in range(keys.shape[0])]
