"""All that one step hands to the next, and how it begins on a mesh."""

import functools
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from jax.sharding import AbstractMesh, Mesh

from layers.sharding import Rules, constraints_seen
from runners.array_names import named_arrays
from runners.devices.meshes import replicated
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


class ModelInit:
  """A model's parameters: how they begin, and by tracing it once, all that a mesh must know.

  Attributes:
    boxed: their shapes, boxed with the logical name of each dimension.
    constraints: what the layers ask of activations, for one row.
  """

  def __init__(self, model: nn.Module, objective: Objective, batch: Mapping[str, Any]):
    """`batch` is any batch, as arrays or shapes."""
    self.objective, self._model = objective, model
    # One row is enough to learn the shapes of the parameters.
    self._row = {
      key: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for key, x in batch.items()
    }
    with constraints_seen() as self.constraints:
      self.boxed = jax.eval_shape(self.params, jax.random.key(0))

  def params(self, key: jax.Array) -> Any:
    """The first parameters, boxed: each by its own initialiser, none by a forward pass."""

    def forward(model: nn.Module, row: Mapping[str, Any]) -> Any:
      return model(*self.objective.model_inputs(with_rows(row)))

    return self._model.lazy_init(key, self._row, method=forward)["params"]

  def unpadded(self) -> Any:
    """Their shapes, unboxed, without the rows that pad the vocabulary for a mesh."""
    ids = getattr(self._model, "vocab_size", None)
    rows = getattr(self._model, "padded_vocab_size", None) or ids

    def cut(x: Any, names: Any) -> jax.ShapeDtypeStruct:
      named = zip(x.shape, (*names, *[None] * x.ndim), strict=False)
      padded = ((size, name == "vocab" and size == rows) for size, name in named)
      return jax.ShapeDtypeStruct([ids if cuts else size for size, cuts in padded], x.dtype)

    return jax.tree.map(cut, nn.unbox(self.boxed), nn.get_partition_spec(self.boxed))


class Initializer:
  """Makes a TrainState whose every leaf begins where the mesh wants it.

  Args:
    model: how its parameters begin.
    optimizer: built.
    seed: of parameters and dropout.
    mesh, rules: how logical axes lie on devices (runners/devices/layout.py: what has to fit).
  """

  def __init__(
    self,
    model: ModelInit,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh | AbstractMesh,
    rules: Rules,
  ):
    self._model, self._optimizer, self._seed = model, optimizer, seed
    self._jitted = jax.jit(self._init)  # traced once, for the shapes and for the values
    shapes = jax.eval_shape(self._jitted)
    self.shardings = self._shardings(shapes, mesh, rules)
    self.abstract = jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      shapes,
      self.shardings,
    )

  def init(self) -> TrainState:
    """A fresh state; its parameters do not depend on the mesh."""
    if jax.default_backend() != "cpu":
      return self.program()()
    # On CPU the last bit of an element depends on the shape of the loop that computes it, and
    # so on the mesh, where each device computes its part alone: compute whole, then cut.
    return jax.device_put(self._jitted(), self.shardings)

  def program(self) -> jax.stages.Wrapped:
    """() -> a fresh state, where every device computes its part: jitted, for any platform."""
    return jax.jit(self._init, out_shardings=self.shardings)

  def init_around(self, params: Any) -> TrainState:
    """A fresh state with these parameters; what an optimizer keeps of them, it has of these."""
    rest = jax.jit(
      lambda params: self._state(params, self._keys()[1]).replace(params=None),
      out_shardings=self.shardings.replace(params=None),
    )(params)
    return rest.replace(params=params)

  def unpadded(self) -> TrainState:
    """Shapes of the state as it would be on a mesh for which no vocabulary is padded."""
    return jax.eval_shape(self._state, self._model.unpadded(), jax.random.key(0))

  @functools.cached_property
  def infinite(self) -> set[str]:
    """Names of scalars of the optimizer's state that begin as an infinity, like a best loss."""

    def scalars() -> dict[str, jax.Array]:
      params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract.params)
      state = named_arrays({"opt_state": self._optimizer.init(params)})
      return {
        name: x for name, x in state if jnp.issubdtype(x.dtype, jnp.floating) and not x.ndim
      }

    # Compiled, so that no moment is allocated.
    return {name for name, x in jax.device_get(jax.jit(scalars)()).items() if np.isinf(x)}

  def num_params(self) -> int:
    return sum(x.size for x in jax.tree.leaves(self.abstract.params))

  def _init(self) -> TrainState:
    params_key, step_key = self._keys()
    return self._state(nn.unbox(self._model.params(params_key)), step_key)

  def _keys(self) -> jax.Array:
    """Of the parameters, and of the steps."""
    return jax.random.split(jax.random.key(self._seed))

  def _state(self, params: Any, step_key: jax.Array) -> TrainState:
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=self._optimizer.init(params),
      metrics=empty_metrics(self._model.objective),
      key=jax.random.key_data(step_key),
    )

  def _shardings(
    self, state: TrainState, mesh: Mesh | AbstractMesh, rules: Rules
  ) -> TrainState:
    """Optimizer moments lie as their parameters do, all else is replicated.

    So are moments of another shape than their parameter, such as factored ones.
    """
    logical = nn.get_partition_spec(self._model.boxed)
    # Only the names of the axes are read, which a described mesh has too.
    params = nn.spmd.logical_to_mesh_sharding(logical, cast(Mesh, mesh), rules)
    whole = replicated(mesh)
    opt_state = optax.tree.map_params(
      self._optimizer,
      lambda x, param, sharding: (
        x if _is_left_out(x) else sharding if x.shape == param.shape else whole
      ),
      state.opt_state,
      state.params,
      params,
      transform_non_params=lambda _: whole,
      is_leaf=_is_left_out,
    )
    rest = jax.tree.map(lambda _: whole, state)
    return rest.replace(params=params, opt_state=opt_state)


def _is_left_out(x: Any) -> bool:
  """What stands for the moments of a parameter that a part of an optimizer leaves alone."""
  return isinstance(x, optax.MaskedNode)
