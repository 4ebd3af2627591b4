"""A config on a mesh: everything derived and traced, whether the devices are there or not.

Every start follows this chain, and makes each link once, from the link before:

    config -> Groundwork   numbers checked; the mesh's shape and the data built
           -> Blueprint    everything derived, the trainer built, the model traced on the mesh
           -> Assembly     data opened (runners/assembly.py)

Training and evaluation follow it to the end; generation and planning stop at the blueprint.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import fiddle as fdl
import jax

from input_pipelines.batches import Data
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from runners.configs.derived import derive_eval_data
from runners.configs.ranges import check_ranges
from runners.derivation import derive, derive_schedules
from runners.devices.layout import (
  Layout,
  activation_layouts,
  check_divides,
  check_rules,
  parameter_layouts,
  warn_of_idle_axes,
)
from runners.devices.meshes import MeshShape, check_batch
from runners.optimizer_labels import learning_rates
from runners.train_state import Initializer, ModelInit
from runners.trainer import Trainer
from tasks.objective import check_objective

AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groundwork:
  """The checked config with its mesh and data built: a model's facts are derived from these.

  Attributes:
    config: of a Trainer; its evaluation data have taken their unset fields from train_data.
    mesh: a shape; the caller makes a mesh from it and the devices at hand.
    train_data, eval_data: built, not opened.
  """

  config: fdl.Config
  mesh: MeshShape
  train_data: Data
  eval_data: Mapping[str, Data]

  def changed(self, config: fdl.Config) -> "Groundwork":
    """The same data with another config, whose data fields are equal."""
    return dataclasses.replace(self, config=config, mesh=fdl.build(config.mesh))


def lay_ground(config: fdl.Config) -> Groundwork:
  """Checks the numbers of a Trainer's config, and builds the parts that the rest depends on.

  Raises:
    UserError: a number is out of range, or the mesh or the data refuse their fields.
  """
  config = derive_eval_data(config)
  check_numbers(config)
  # One build, so that a node which several data share becomes one object.
  parts = fdl.Config(
    _named,
    mesh=config.mesh,
    train_data=config.train_data,
    eval_data=config.eval_data or {},
  )
  return Groundwork(config=config, **fdl.build(parts))


def _named(**parts: Any) -> dict[str, Any]:
  return parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blueprint:
  """The run on a mesh, with no array allocated.

  Attributes:
    config: with every derived field filled in. If num_epochs gives the length, the schedules'
      num_steps are still unset: only opened data know it.
    trainer: built from it. If num_epochs gives the length, the optimizer is made for one step
      until `of_length` is called.
    learning_rates: name as logged -> rate, or step -> rate; see runners/optimizer_labels.py.
    mesh: of devices, or a description of one.
    model: the shapes of its parameters, and its constraints on activations.
    layouts: of every parameter, then of every kind of activation that a layer constrains.
  """

  config: fdl.Config
  trainer: Trainer
  learning_rates: Mapping[str, Any]
  mesh: Any
  model: ModelInit
  layouts: list[Layout]

  @functools.cached_property
  def initializer(self) -> Initializer:
    """Shapes, shardings and first values of the state."""
    trainer = self.trainer
    return Initializer(
      self.model,
      trainer.transformation,
      seed=trainer.seed,
      mesh=self.mesh,
      rules=trainer.sharding,
      statistics=trainer.step.statistics,
      variables=trainer.step.variables,
    )

  def of_length(self, num_steps: int) -> "Blueprint":
    """The same run with the optimizer made for this length."""
    if self.config.num_steps is not None:
      assert num_steps == self.config.num_steps
      return self
    optimizer, rates = _optimizer(derive_schedules(self.config, num_steps))
    trainer = dataclasses.replace(self.trainer, optimizer=optimizer)
    return dataclasses.replace(self, trainer=trainer, learning_rates=rates)


def draw(
  ground: Groundwork,
  mesh: AnyMesh,
  *,
  vocabulary: Vocabulary | None = None,
  platform: str | None = None,
) -> Blueprint:
  """The model on the mesh; nothing is allocated, and no data are read.

  Args:
    ground: the checked config with its data.
    mesh: a mesh of devices, or a description of one.
    vocabulary: gives the model its ids; None: the training data's.
    platform: the platform of the devices; None: jax's default.

  Raises:
    UserError: the mesh, the rules, the batch and the model do not fit each other.
  """
  config = ground.config
  check_rules(config.sharding)
  for name in ("batch_size", "microbatch_size"):
    if getattr(config, name):
      check_batch(name, getattr(config, name), mesh)
  config = derive(
    config,
    vocabulary=vocabulary or ground.train_data.vocabulary(),
    mesh=mesh.shape,
    num_steps=config.num_steps,
    platform=platform,
  )
  # A faulty optimizer shows before the data are opened, even if they alone know the length.
  known = config if config.num_steps else derive_schedules(config, 1)
  optimizer, rates = _optimizer(known)
  parts = {"mesh": ground.mesh, "train_data": ground.train_data, "optimizer": optimizer}
  if ground.eval_data:
    parts["eval_data"] = ground.eval_data
  trainer: Trainer = fdl.build(fdl.copy_with(config, **parts))
  check_objective(trainer.objective, trainer.num_microbatches)
  example = ground.train_data.example(trainer.sequence_length)
  model = ModelInit(trainer.model, trainer.objective, example)
  layouts = _layouts(model, trainer, mesh)
  check_divides(layouts, config)
  warn_of_idle_axes(layouts, mesh.shape)
  return Blueprint(
    config=config,
    trainer=trainer,
    learning_rates=rates,
    mesh=mesh,
    model=model,
    layouts=layouts,
  )


def _layouts(model: ModelInit, trainer: Trainer, mesh: AnyMesh) -> list[Layout]:
  num_rows = trainer.microbatch_size or trainer.batch_size
  return [
    *parameter_layouts(model.boxed, trainer.sharding, mesh.shape),
    *activation_layouts(model.constraints, trainer.sharding, mesh.shape, num_rows),
  ]


def _optimizer(config: fdl.Config) -> tuple[Any, dict[str, Any]]:
  """The optimizer and its learning rates from one build, so that they share schedules."""
  parts = {"optimizer": config.optimizer, "rates": learning_rates(config.optimizer)}
  built = fdl.build(fdl.Config(_named, **parts))
  return built["optimizer"], built["rates"]


def check_numbers(config: fdl.Config) -> None:
  """Raises UserError for a number in the config that cannot be, or that contradicts another."""
  check_ranges(config)
  if config.num_steps is None and config.num_epochs is None:
    raise UserError("set num_steps or num_epochs, for example --set=num_steps=1000")
  if config.num_steps is not None and config.num_epochs is not None:
    raise UserError(
      f"num_steps={config.num_steps} and num_epochs={config.num_epochs} are both set; "
      "unset one, for example with --set=num_steps=None"
    )
  if config.microbatch_size and config.batch_size % config.microbatch_size:
    raise UserError(
      f"microbatch_size={config.microbatch_size} does not divide batch_size={config.batch_size}"
    )
