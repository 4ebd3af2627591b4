"""One update: loss, gradients over microbatches, optimizer.

Letters: B rows of the global batch, M microbatches.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from layers.sharding import Rules, constrain, partitioned
from runners.train_state import StepMetrics, TrainState
from tasks.objective import Objective, with_rows
from tasks.weighted_metrics import average

Step = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, jax.Array]]


def make_train_step(
  model: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  num_microbatches: int,
  mesh: Mesh,
  rules: Rules,
) -> Step:
  """A function (state, batch) -> (next state, loss), to be jitted with the state donated."""

  def train_step(state: TrainState, batch: Mapping[str, jax.Array]):
    with partitioned(mesh, rules):
      batch = with_rows(batch)
      totals = objective.totals(batch)
      key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

      def loss_of(params: Any, microbatch: Mapping[str, jax.Array]):
        def apply(*inputs: Any) -> Any:
          return model.apply({"params": params}, *inputs, rngs={"dropout": key})

        return objective.loss(apply, microbatch, totals)

      loss, gradients, collection = _accumulate(
        jax.value_and_grad(loss_of, has_aux=True), state.params, batch, num_microbatches
      )
      updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
      norm = average(optax.tree.norm(gradients), 1.0)
      step_metrics = StepMetrics(objective=collection, grad_norm=norm)
      return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        metrics=state.metrics.merge(step_metrics),
      ), loss

  return train_step


def _accumulate(grad_of: Callable, params: Any, batch: Any, num_microbatches: int):
  """Sums loss, gradients and metrics over the microbatches; gradients in float32."""

  def evaluate(microbatch: Any):
    (loss, collection), gradients = grad_of(params, microbatch)
    return loss, jax.tree.map(lambda g: g.astype(jnp.float32), gradients), collection

  if num_microbatches == 1:
    return evaluate(batch)

  def add(total: Any, microbatch: Any):
    loss, gradients, collection = evaluate(microbatch)
    loss_sum, gradient_sum, metrics_sum = total
    total = (
      loss_sum + loss,
      jax.tree.map(jnp.add, gradient_sum, gradients),
      metrics_sum.merge(collection),
    )
    return total, None

  microbatches = _split(batch, num_microbatches)
  # Every leaf of a collection is a sum, so zeros are its neutral element.
  first = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(lambda m: grad_of(params, m)[0][1], first)
  zero_metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  start = (jnp.zeros((), jnp.float32), zeros, zero_metrics)
  (loss, gradients, collection), _ = jax.lax.scan(add, start, microbatches)
  return loss, gradients, collection


def _split(batch: Any, num_microbatches: int) -> Any:
  """Each array [B, ...] as [M, B / M, ...], row r in microbatch r % M.

  Strided, so that each device cuts its own rows and none travel.
  """

  def split(x: jax.Array) -> jax.Array:
    parts = x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)
    return constrain(parts, None, "batch", *[None] * (x.ndim - 1))

  return jax.tree.map(split, batch)


def make_eval_step(
  model: nn.Module, objective: Objective, *, num_microbatches: int, mesh: Mesh, rules: Rules
):
  """A function (params, batch) -> CLU collection, without dropout.

  In microbatches like training: what trains in the memory at hand also evaluates in it.
  """

  def eval_step(params: Any, batch: Mapping[str, jax.Array]) -> Any:
    with partitioned(mesh, rules):
      batch = with_rows(batch)
      totals = objective.totals(batch)

      def collect(rows: Mapping[str, jax.Array]) -> Any:
        return objective.loss(
          lambda *inputs: model.apply({"params": params}, *inputs), rows, totals
        )[1]

      if num_microbatches == 1:
        return collect(batch)
      collections = jax.lax.map(collect, _split(batch, num_microbatches))
      return jax.tree.map(lambda x: x.sum(axis=0), collections)  # every leaf is a sum

  return eval_step
