"""All that one step hands to the next, and how it begins on a mesh."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from layers.errors import UserError
from layers.sharding import Rules
from runners.meshes import replicated
from tasks.objective import Objective, with_rows
from tasks.weighted_metrics import average


class StepMetrics(flax.struct.PyTreeNode):
  """Running sums over the interval between two logs."""

  objective: Any  # the objective's own CLU collection
  grad_norm: metrics.Average  # of the gradient before clipping

  def merge(self, other: "StepMetrics") -> "StepMetrics":
    return StepMetrics(
      objective=self.objective.merge(other.objective),
      grad_norm=self.grad_norm.merge(other.grad_norm),
    )


class TrainState(flax.struct.PyTreeNode):
  """A pytree that is donated to each step, and that a checkpoint holds.

  The sums of the current interval belong to it: a run restored between two logs reports
  bitwise what the unbroken run reports.
  """

  step: jax.Array  # int32, updates done
  params: Any
  opt_state: Any
  metrics: StepMetrics
  key: jax.Array  # uint32, key data of the run; a step folds its number into it


def empty_metrics(objective: Objective) -> StepMetrics:
  return StepMetrics(objective=objective.empty_metrics(), grad_norm=average(0.0, 0.0))


class Initializer:
  """Makes a TrainState whose every leaf begins where the mesh wants it.

  Args:
    model, objective, optimizer: built.
    batch: one batch, as arrays or shapes.
    seed: of parameters and dropout.
    mesh, rules: how logical axes lie on devices.
  """

  def __init__(
    self,
    model: nn.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    batch: Mapping[str, Any],
    *,
    seed: int,
    mesh: Mesh,
    rules: Rules,
  ):
    self._model, self._objective, self._optimizer = model, objective, optimizer
    self._seed = seed
    # One row is enough to learn the shapes of the parameters.
    row = {key: jnp.zeros((1, *x.shape[1:]), x.dtype) for key, x in batch.items()}
    self._row = with_rows(row)
    boxed = jax.eval_shape(self._boxed_params, jax.random.key(0))
    self.shardings = self._shardings(boxed, mesh, rules)
    self.abstract = jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      jax.eval_shape(self._init),
      self.shardings,
    )

  def init(self) -> TrainState:
    """A fresh state; its parameters do not depend on the mesh."""
    if jax.default_backend() != "cpu":
      return jax.jit(self._init, out_shardings=self.shardings)()
    # On CPU the last bit of an element depends on the shape of the loop that computes it, and
    # so on the mesh, where each device computes its part alone: compute whole, then cut.
    return jax.device_put(jax.jit(self._init)(), self.shardings)

  def num_params(self) -> int:
    return sum(x.size for x in jax.tree.leaves(self.abstract.params))

  def _boxed_params(self, key: jax.Array) -> Any:
    return self._model.init(key, *self._objective.model_inputs(self._row))["params"]

  def _init(self) -> TrainState:
    params_key, step_key = jax.random.split(jax.random.key(self._seed))
    params = nn.unbox(self._boxed_params(params_key))
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=self._optimizer.init(params),
      metrics=empty_metrics(self._objective),
      key=jax.random.key_data(step_key),
    )

  def _shardings(self, boxed: Any, mesh: Mesh, rules: Rules) -> TrainState:
    """Optimizer moments lie as their parameters do, all else is replicated.

    So are moments of another shape than their parameter, such as factored ones.
    """
    logical = nn.get_partition_spec(boxed)
    params = nn.spmd.logical_to_mesh_sharding(logical, mesh, rules)
    jax.tree_util.tree_map_with_path(_check_divisible, params, nn.unbox(boxed))
    whole = replicated(mesh)
    state = jax.eval_shape(self._init)
    opt_state = optax.tree.map_params(
      self._optimizer,
      lambda x, param, sharding: sharding if x.shape == param.shape else whole,
      state.opt_state,
      state.params,
      params,
      transform_non_params=lambda _: whole,
    )
    rest = jax.tree.map(lambda _: whole, state)
    return rest.replace(params=params, opt_state=opt_state)


def _check_divisible(path: Any, sharding: NamedSharding, x: Any) -> None:
  """Raises UserError where a mesh axis does not divide the dimension it splits."""
  spec: PartitionSpec = sharding.spec
  for size, axes in zip(x.shape, spec, strict=False):
    axes = (axes,) if isinstance(axes, str) else axes or ()
    parts = 1
    for axis in axes:
      parts *= sharding.mesh.shape[axis]
    if size % parts:
      name = "/".join(str(getattr(key, "key", key)) for key in path)
      raise UserError(
        f"mesh axis {'*'.join(axes)}={parts} does not divide a dimension of {size} of "
        f"parameter {name} {x.shape}; choose a divisor of {size}, or a rule in `sharding` "
        "that leaves it whole"
      )
