"""The state that one step hands to the next, and its initialisation on a mesh."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from jax.sharding import AbstractMesh, Mesh

from layers.errors import UserError
from layers.reports import Report, Reports, merged, reports_seen
from layers.sharding import Rules, constraints_seen
from layers.variables import first_variables
from runners.array_names import named_arrays
from runners.devices.meshes import replicated
from runners.model_traits import traits
from tasks.objective import Objective, with_rows
from tasks.weighted_metrics import average, metric_names

_NONE: Mapping[str, Any] = MappingProxyType({})


class StepMetrics(flax.struct.PyTreeNode):
  """Running sums over the interval between two logs."""

  objective: Any  # the objective's own CLU collection
  grad_norm: metrics.Average  # of the gradient before clipping
  reports: Reports = flax.struct.field(default_factory=dict)  # of the layers
  statistics: Reports = flax.struct.field(default_factory=dict)  # of the step

  def merge(self, other: "StepMetrics") -> "StepMetrics":
    return StepMetrics(
      objective=self.objective.merge(other.objective),
      grad_norm=self.grad_norm.merge(other.grad_norm),
      reports=merged(self.reports, other.reports),
      statistics=merged(self.statistics, other.statistics),
    )


class TrainState(flax.struct.PyTreeNode):
  """A pytree that is donated to each step and saved in checkpoints.

  It includes the sums of the current interval, so that a run restored between two logs reports
  bitwise the numbers of the unbroken run.
  """

  step: jax.Array  # int32, updates done
  params: Any
  opt_state: Any
  metrics: StepMetrics
  key: jax.Array  # uint32, key data of the run; a step folds its number into it
  # Collection -> what no gradient changes: batch statistics, codebooks, averages of parameters.
  variables: Any = flax.struct.field(default_factory=dict)


def empty_metrics(
  objective: Objective, reports: Reports = _NONE, statistics: Sequence[str] = ()
) -> StepMetrics:
  """Sums of nothing.

  Args:
    objective: whose collection is among them.
    reports: name -> the shapes of what the layers report.
    statistics: names of what the step gives.
  """
  zero = lambda: jnp.zeros((), jnp.float32)
  return StepMetrics(
    objective=objective.empty_metrics(),
    grad_norm=average(0.0, 0.0),
    reports=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(reports)),
    statistics={name: Report(zero(), zero()) for name in statistics},
  )


def _check_names(objective: Objective, reports: Reports, statistics: Sequence[str]) -> None:
  """Raises UserError where two of what is logged have one name."""
  taken = {"grad_norm": "runner", "learning_rate": "runner"}
  kind = type(objective).__name__
  for owner, names in (
    (kind, metric_names(objective)),
    ("layers", reports),
    ("step", statistics),
  ):
    for name in names:
      if name in taken:
        raise UserError(
          f"{name!r} is logged by the {taken[name]} and by the {owner}: rename one"
        )
      taken[name] = owner


class ModelInit:
  """A model's parameters: how they begin, and by tracing it once, all that a mesh must know.

  Attributes:
    boxed: their shapes, boxed with the logical name of each dimension.
    boxed_variables: collection -> those of what else the layers keep.
    constraints: what the layers ask of activations, for one row.
    reports: name -> shapes of what the layers report.
  """

  def __init__(self, model: nn.Module, objective: Objective, batch: Mapping[str, Any]):
    """`batch` is any batch, as arrays or shapes."""
    self.objective, self._model = objective, model
    # One row is enough to learn the shapes of the parameters.
    self._row = {
      key: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for key, x in batch.items()
    }
    with constraints_seen() as self.constraints, reports_seen() as self.reports:
      self.boxed, self.boxed_variables = jax.eval_shape(self.first, jax.random.key(0))

  def first(self, key: jax.Array) -> tuple[Any, dict[str, Any]]:
    """The first parameters, boxed: each by its own initialiser, none by a forward pass.

    Beside them what else the layers keep, by collections.
    """
    made = dict(first_variables(self._model, key, self._row, method=self._forward))
    return made.pop("params"), made

  def _forward(self, model: nn.Module, row: Mapping[str, Any]) -> Any:
    return model(*self.objective.model_inputs(with_rows(row)))

  def unpadded(self) -> tuple[Any, dict[str, Any]]:
    """Shapes as of `first`, unboxed, without the rows that pad the vocabulary for a mesh."""
    asked = traits(self._model)
    ids, rows = asked.vocab_size, asked.padded_vocab_size or asked.vocab_size

    def cut(x: Any, names: Any) -> jax.ShapeDtypeStruct:
      named = zip(x.shape, (*names, *[None] * x.ndim), strict=False)
      padded = ((size, name == "vocab" and size == rows) for size, name in named)
      return jax.ShapeDtypeStruct([ids if cuts else size for size, cuts in padded], x.dtype)

    boxed = (self.boxed, self.boxed_variables)
    return jax.tree.map(cut, nn.unbox(boxed), nn.get_partition_spec(boxed))


class Initializer:
  """Makes a TrainState with every leaf sharded as the mesh demands.

  Args:
    model: how its parameters begin.
    optimizer: built.
    seed: of parameters and dropout.
    mesh, rules: how logical axes lie on devices (runners/devices/layout.py: what has to fit).
    statistics: names of what the step gives beside the state.
    variables: parameters -> what the step keeps of its own.

  Raises:
    UserError: two of what is logged have one name, or two of what is kept.
  """

  def __init__(
    self,
    model: ModelInit,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh | AbstractMesh,
    rules: Rules,
    statistics: Sequence[str] = (),
    variables: Callable[[Any], dict[str, Any]] = lambda params: {},
  ):
    self._model, self._optimizer, self._seed = model, optimizer, seed
    self._statistics, self._variables = statistics, variables
    _check_names(model.objective, model.reports, statistics)
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
    # On CPU an element's last bit depends on the shape of the loop that computes it, and so on
    # the mesh if each device computes its part: so compute the whole, then split it.
    return jax.device_put(self._jitted(), self.shardings)

  def program(self) -> jax.stages.Wrapped:
    """() -> a fresh state, each device computing its part; jitted, for any platform."""
    return jax.jit(self._init, out_shardings=self.shardings)

  @property
  def kept_by_model(self) -> list[str]:
    """Collections of variables that are the model's and not the step's."""
    return sorted(self._model.boxed_variables)

  def init_around(self, params: Any, variables: Mapping[str, Any] = _NONE) -> TrainState:
    """A fresh state with these parameters; what an optimizer keeps of them, it has of these.

    `variables` are the model's; without any it begins with its own.
    """

    def without_given(state: TrainState) -> TrainState:
      made = {name: x for name, x in state.variables.items() if name not in variables}
      return state.replace(params=None, variables=made)

    def rest(params: Any, variables: Any) -> TrainState:
      params_key, step_key = self._keys()
      kept = variables or self._model.first(params_key)[1]
      return without_given(self._state(params, kept, step_key))

    jitted = jax.jit(rest, out_shardings=without_given(self.shardings))
    fresh = jitted(params, dict(variables))
    return fresh.replace(params=params, variables={**fresh.variables, **variables})

  def empty_metrics(self) -> StepMetrics:
    """The sums of an interval that begins."""
    return empty_metrics(self._model.objective, self._model.reports, self._statistics)

  def unpadded(self) -> TrainState:
    """The state's shapes on a mesh that needs no padding of the vocabulary."""
    params, variables = self._model.unpadded()
    return jax.eval_shape(self._state, params, variables, jax.random.key(0))

  @functools.cached_property
  def infinite(self) -> set[str]:
    """Names of scalars in the optimizer's initial state that are infinite, like a best loss."""

    def scalars() -> dict[str, jax.Array]:
      params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract.params)
      state = named_arrays({"opt_state": self._optimizer.init(params)})
      return {
        name: x for name, x in state if jnp.issubdtype(x.dtype, jnp.floating) and not x.ndim
      }

    # Compiled, so that no moment is allocated.
    return {name for name, x in jax.device_get(jax.jit(scalars)()).items() if np.isinf(x)}

  def num_params(self) -> int:
    """Of the model: what pads the vocabulary does not count."""
    return sum(x.size for x in jax.tree.leaves(self._model.unpadded()[0]))

  def _init(self) -> TrainState:
    params_key, step_key = self._keys()
    return self._state(*self._model.first(params_key), step_key)

  def _keys(self) -> jax.Array:
    """Two random keys: for the parameters, and for the steps."""
    return jax.random.split(jax.random.key(self._seed))

  def _state(self, params: Any, variables: dict[str, Any], step_key: jax.Array) -> TrainState:
    params, variables = nn.unbox(params), nn.unbox(variables)
    # A copy, for the state is donated and an array cannot be given away twice.
    own = jax.tree.map(jnp.copy, self._variables(params))
    if both := sorted(variables.keys() & own.keys()):
      raise UserError(f"the model and the step both keep {both[0]!r}: rename one of them")
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=self._optimizer.init(params),
      metrics=self.empty_metrics(),
      key=jax.random.key_data(step_key),
      variables={**variables, **own},
    )

  def _shardings(
    self, state: TrainState, mesh: Mesh | AbstractMesh, rules: Rules
  ) -> TrainState:
    """Optimizer moments are sharded like their parameters; everything else is replicated.

    Moments whose shape differs from the parameter's, such as factored ones, are replicated too.
    """
    logical = nn.get_partition_spec(self._model.boxed)
    # Only the names of the axes are read, which an abstract mesh has too.
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
    logical = nn.get_partition_spec(self._model.boxed_variables)
    kept = nn.spmd.logical_to_mesh_sharding(logical, cast(Mesh, mesh), rules)
    like = jax.tree.map(lambda x: x.shape, state.params)
    for name in state.variables.keys() - kept.keys():  # the step's own
      alike = jax.tree.map(lambda x: x.shape, state.variables[name]) == like
      kept[name] = params if alike else rest.variables[name]
    return rest.replace(params=params, opt_state=opt_state, variables=kept)


def _is_left_out(x: Any) -> bool:
  """Whether x replaces the moments of a parameter that a part of an optimizer skips."""
  return isinstance(x, optax.MaskedNode)
