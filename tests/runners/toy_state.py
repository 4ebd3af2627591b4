"""A TrainState of a few numbers, for tests that save and restore and never train."""

from typing import Any

import jax
import jax.numpy as jnp

from runners import optimizers
from runners.train_state import TrainState, empty_metrics
from tasks.language_modeling import NextToken


def toy_state(step: int) -> TrainState:
  """A state that differs from step to step, with every kind of leaf that a real one has."""
  params = {
    "kernel": jnp.arange(16.0).reshape(8, 2) + step,
    "bias": jnp.full(8, step, jnp.bfloat16),
  }
  metrics = empty_metrics(NextToken())
  return TrainState(
    step=jnp.int32(step),
    params=params,
    opt_state=jax.tree.map(lambda x: x + step, optimizers.adamw(1e-3).init(params)),
    metrics=metrics.replace(grad_norm=metrics.grad_norm.replace(total=jnp.float32(step))),
    key=jax.random.key_data(jax.random.key(step)),
  )


def abstract(state: Any) -> Any:
  """Shapes, dtypes and places of `state`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
