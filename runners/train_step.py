"""One update: loss, gradients over microbatches, optimizer; and what an evaluation sums up.

Letters: B rows of the global batch, M microbatches.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from layers.attention_cores.whole_rows import decided_once
from layers.errors import UserError
from layers.reports import Report, Reports, merged
from layers.sharding import Rules, constrain, partitioned
from runners.forward import ModelForward, outcome
from runners.train_state import StepMetrics, TrainState
from tasks.objective import Objective, with_rows
from tasks.weighted_metrics import average

Step = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a step is made of: the trainer's, built."""

  model: nn.Module
  objective: Objective
  optimizer: optax.GradientTransformation
  num_microbatches: int


class Gradients(flax.struct.PyTreeNode):
  """What a batch says of the parameters, before any of them moves.

  Attributes:
    loss: of the batch, float32 scalar.
    gradients: float32, a tree like the parameters.
    metrics: the objective's collection.
    reports: of the layers.
    variables: of the state, as the model left them.
  """

  loss: jax.Array
  gradients: Any
  metrics: Any
  reports: Reports
  variables: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
  """One update in two parts, `gradients` and then `update`; derive from it to change one.

      class MeasuredStep(TrainStep):
        statistics = ("update_norm",)

        def update(self, parts, state, found):
          after, _ = super().update(parts, state, found)
          moved = jax.tree.map(jnp.subtract, after.params, state.params)
          return after, {"update_norm": optax.tree.norm(moved)}

  Both are traced into one program, on whole arrays: what is summed over the batch is so over
  all devices.

  Attributes:
    statistics: the names of the scalars that `update` gives with each state. They are averaged
      between two logs and logged beside the loss.
  """

  statistics: ClassVar[Sequence[str]] = ()

  def variables(self, params: Any) -> dict[str, Any]:
    """Collection -> first values of what this step keeps in the state beside the model's own.

    An average of the parameters lies on the mesh as they do; all else has every device whole.
    """
    return {}

  def gradients(self, parts: Parts, state: TrainState, batch: Any) -> Gradients:
    """Of the global batch, which has its rows (`with_rows`); the state does not change."""
    totals = parts.objective.totals(batch)
    key = step_key(state)

    def loss_of(params: Any, variables: Any, microbatch: Mapping[str, jax.Array]):
      forward = ModelForward(parts.model, params, variables, microbatch, key)
      found = outcome(parts.objective, forward, microbatch, totals)
      return found.loss, found

    return _accumulate(
      jax.value_and_grad(loss_of, has_aux=True),
      state,
      batch,
      parts.num_microbatches,
      parts.objective,
    )

  def update(
    self, parts: Parts, state: TrainState, found: Gradients
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state with other parameters, and `statistics`. The runner counts step and metrics."""
    updates, opt_state = parts.optimizer.update(found.gradients, state.opt_state, state.params)
    after = state.replace(
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      variables=found.variables,
    )
    return after, {}


def step_key(state: TrainState) -> jax.Array:
  """Of all that is drawn at random in the step that begins with `state`."""
  return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def make_train_step(
  model: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  num_microbatches: int,
  mesh: Mesh,
  rules: Rules,
  step: TrainStep | None = None,
) -> Step:
  """A function (state, batch) -> (next state, loss), to be jitted with the state donated."""
  parts, step = Parts(model, objective, optimizer, num_microbatches), step or TrainStep()

  def train_step(state: TrainState, batch: Mapping[str, jax.Array]):
    with partitioned(mesh, rules):
      batch = with_rows(batch)
      found = decided_once(
        lambda: step.gradients(parts, state, batch), lambda: objective.model_inputs(batch)
      )
      _check_variables(objective, found.variables, state.variables)
      after, statistics = step.update(parts, state, found)
      step_metrics = StepMetrics(
        objective=found.metrics,
        grad_norm=average(optax.tree.norm(found.gradients), 1.0),
        reports=_declared("report", found.reports, state.metrics.reports),
        statistics=_declared("statistic", _once(statistics), state.metrics.statistics),
      )
      return after.replace(
        step=state.step + 1, metrics=state.metrics.merge(step_metrics)
      ), found.loss

  return train_step


def _check_variables(objective: Objective, found: Any, known: Any) -> None:
  """Raises UserError unless a step leaves the variables that it began with."""
  if jax.tree.structure(found) != jax.tree.structure(known):
    kept = ", ".join(sorted(known)) or "none"
    raise UserError(
      f"{type(objective).__name__}.loss hands on other variables than the state has ({kept}): "
      "return those that forward gave, as answer.outcome(loss, metrics) does"
    )


def _once(statistics: Mapping[str, jax.Array]) -> dict[str, Report]:
  """Of one step."""
  one = jnp.ones((), jnp.float32)
  return {name: Report(jnp.float32(x), one) for name, x in statistics.items()}


def _declared(what: str, found: Reports, known: Reports) -> dict[str, Report]:
  """`found`, which has the names that the state has a place for: no more and no less."""
  if unannounced := sorted(found.keys() - known.keys()):
    raise UserError(
      f"the {what} {unannounced[0]!r} comes in a step and was not announced: a layer makes its "
      "reports where its parameters are made, too, and a step names what it gives in "
      "`statistics`"
    )
  if missing := sorted(known.keys() - found.keys()):
    raise UserError(
      f"the {what} {missing[0]!r} was announced and does not come in a step: an objective "
      "hands on the reports of forward, and a step gives all of its `statistics`"
    )
  return dict(found)


def _accumulate(
  grad_of: Callable, state: TrainState, batch: Any, num_microbatches: int, objective: Objective
) -> Gradients:
  """Sums loss, gradients and metrics over the microbatches; gradients in float32."""

  def evaluate(variables: Any, microbatch: Any) -> Gradients:
    (loss, found), gradients = grad_of(state.params, variables, microbatch)
    gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
    return Gradients(loss, gradients, found.metrics, dict(found.reports), found.variables)

  if num_microbatches == 1:
    return evaluate(state.variables, batch)

  def add(total: Gradients, microbatch: Any):
    found = evaluate(total.variables, microbatch)
    total = Gradients(
      loss=total.loss + found.loss,
      gradients=jax.tree.map(jnp.add, total.gradients, found.gradients),
      metrics=total.metrics.merge(found.metrics),
      reports=merged(total.reports, found.reports),
      variables=found.variables,
    )
    return total, None

  start = Gradients(
    loss=jnp.zeros((), jnp.float32),
    gradients=jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params),
    metrics=objective.empty_metrics(),
    reports=_zeros(state.metrics.reports),
    variables=state.variables,
  )
  return jax.lax.scan(add, start, _split(batch, num_microbatches))[0]


def _zeros(tree: Any) -> Any:
  return jax.tree.map(jnp.zeros_like, tree)


def _split(batch: Any, num_microbatches: int) -> Any:
  """Each array [B, ...] as [M, B / M, ...], row r in microbatch r % M.

  Strided, so that each device splits its own rows and no row moves.
  """

  def split(x: jax.Array) -> jax.Array:
    parts = x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1)
    return constrain(parts, None, "batch", *[None] * (x.ndim - 1))

  return jax.tree.map(split, batch)


class EvalSums(flax.struct.PyTreeNode):
  """Of a batch of an evaluation: the objective's collection, and the layers' reports."""

  objective: Any
  reports: Reports

  def merge(self, other: "EvalSums") -> "EvalSums":
    return EvalSums(self.objective.merge(other.objective), merged(self.reports, other.reports))


def make_eval_step(
  model: nn.Module, objective: Objective, *, num_microbatches: int, mesh: Mesh, rules: Rules
):
  """A function (params, variables, batch) -> EvalSums, without dropout.

  It uses microbatches like training, so that evaluation fits in memory if training does.
  """

  def eval_step(params: Any, variables: Any, batch: Mapping[str, jax.Array]) -> EvalSums:
    with partitioned(mesh, rules):
      batch = with_rows(batch)
      totals = objective.totals(batch)

      def sums(rows: Mapping[str, jax.Array]) -> EvalSums:
        forward = ModelForward(model, params, variables, rows)
        found = outcome(objective, forward, rows, totals)
        return EvalSums(found.metrics, dict(found.reports))

      inputs = lambda: objective.model_inputs(batch)
      if num_microbatches == 1:
        return decided_once(lambda: sums(batch), inputs)
      # A loop of its own merges: in one with the model, the compiler would round a product and
      # the sum it goes into once instead of twice.
      in_parts = lambda: jax.lax.map(sums, _split(batch, num_microbatches))
      parts = decided_once(in_parts, inputs)
      none = EvalSums(
        objective.empty_metrics(), _zeros(jax.tree.map(lambda x: x[0], parts.reports))
      )
      return jax.lax.scan(lambda total, part: (total.merge(part), None), none, parts)[0]

  return eval_step
