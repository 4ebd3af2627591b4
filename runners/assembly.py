"""A config turned into everything a run is made of, before any array is allocated.

Training, evaluation and planning all begin here. What is wrong with an experiment shows here,
before the workdir is touched.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import fiddle as fdl
import jax

from input_pipelines.batches import Batches, Data
from input_pipelines.mixing import MixedBatches
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from runners.callbacks import Callback
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
from runners.devices.memory import check_memory
from runners.devices.meshes import batch_sharding, check_batch
from runners.evaluation import Evaluator
from runners.logged_rows import LoggedRows
from runners.optimizer_labels import learning_rates
from runners.source_tokens import SourceTokens
from runners.step_flops import model_flops
from runners.train_state import Initializer, ModelInit
from runners.train_step import make_eval_step, make_train_step
from runners.trainer import Trainer
from tasks.objective import check_objective


@dataclasses.dataclass(frozen=True)
class Assembly:
  """The parts of a run.

  Attributes:
    config: with everything derived filled in; trainer: built of it.
    num_steps: where training ends.
    mesh: of devices.
    batches: of the training data; eval_batches: name -> batches.
    initializer: shapes, shardings and first values of the state.
    learning_rates: name as logged -> rate, or step -> rate; see there.
    blueprint: what all of these are made from.
  """

  config: fdl.Config
  trainer: Trainer
  num_steps: int
  mesh: jax.sharding.Mesh
  batches: Batches
  eval_batches: Mapping[str, Batches]
  initializer: Initializer
  learning_rates: Mapping[str, Any]
  blueprint: "Blueprint"

  def continued_from(self, step: int, position: int) -> "Assembly":
    """The run whose batch `step` begins at row `position` of all epochs laid end to end.

    A run of epochs, whose batches were of another size before, has another length then.
    """
    batches: Any = self.batches
    batches.continue_from(step, position)
    if self.config.num_steps is not None:
      return self
    return dataclasses.replace(
      self, **_of_length(self.blueprint, self.mesh, batches.num_batches)
    )

  @property
  def batch_sharding(self) -> jax.sharding.NamedSharding:
    return batch_sharding(self.mesh)

  @property
  def data(self) -> dict[str, Batches]:
    """All batches by the paths of the data in the config."""
    evaluated = {f"eval_data['{name}']": data for name, data in self.eval_batches.items()}
    return {"train_data": self.batches, **evaluated}

  @functools.cached_property
  def callbacks(self) -> tuple[Callback, ...]:
    """Those of the trainer; those that count for it come first, so that all see the counts.

    What counts the rows comes last: see there.
    """
    counting = [SourceTokens(self.batches)] if isinstance(self.batches, MixedBatches) else []
    return (*counting, *self.trainer.callbacks, self.logged_rows)

  @functools.cached_property
  def logged_rows(self) -> LoggedRows:
    return LoggedRows()

  def model_flops(self) -> int:
    """Of one update: see runners/step_flops.py."""
    return model_flops(self.config.model, self.trainer, self.initializer.abstract)

  def train_step(self) -> jax.stages.Wrapped:
    """Jitted, donating the state."""
    return jitted_train_step(self.trainer, self.initializer, self.mesh)

  def evaluator(self, give_up: Callable[[], bool] = lambda: False) -> Evaluator:
    """Of all evaluation data; `give_up`: see there."""
    trainer = self.trainer
    step = make_eval_step(
      trainer.model,
      trainer.objective,
      num_microbatches=trainer.num_microbatches,
      mesh=self.mesh,
      rules=trainer.sharding,
    )
    shardings = self.initializer.shardings
    jitted = jax.jit(
      step,
      in_shardings=(shardings.params, shardings.variables, self.batch_sharding),
    )
    return Evaluator(jitted, trainer.objective, self.eval_batches, self.batch_sharding, give_up)


def jitted_train_step(
  trainer: Trainer, initializer: Initializer, mesh: jax.sharding.Mesh
) -> jax.stages.Wrapped:
  """(state, batch) -> (state, loss), the state donated."""
  step = make_train_step(
    trainer.model,
    trainer.objective,
    trainer.transformation,
    num_microbatches=trainer.num_microbatches,
    mesh=mesh,
    rules=trainer.sharding,
    step=trainer.step,
  )
  shardings = initializer.shardings
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(shardings, batch_sharding(mesh)),
    out_shardings=(shardings, None),
  )


@dataclasses.dataclass(frozen=True)
class Blueprint:
  """What a config means on a mesh, whether its devices are there or not.

  Attributes:
    config: with everything derived filled in but what follows from the length of the run.
    trainer: built; its schedules are those of the run where the config gives num_steps.
    model: its parameters, and what it asks of activations.
    layouts: of every parameter, then of every kind of activation that a layer constrains.
  """

  config: fdl.Config
  trainer: Trainer
  model: ModelInit
  layouts: list[Layout]

  def initializer(
    self, trainer: Trainer, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh
  ) -> Initializer:
    return Initializer(
      self.model,
      trainer.transformation,
      seed=trainer.seed,
      mesh=mesh,
      rules=trainer.sharding,
      statistics=trainer.step.statistics,
      variables=trainer.step.variables,
    )


def draw(
  config: fdl.Config,
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
  train_data: Data,
  vocabulary: Vocabulary | None = None,
  platform: str | None = None,
) -> Blueprint:
  """The model on the mesh; nothing is allocated, and no data are read.

  `vocabulary` is that of the data unless another is given, `platform` of the devices jax's.

  Raises:
    UserError: the mesh, the rules, the batch and the model do not fit each other.
  """
  check_rules(config.sharding)
  for name in ("batch_size", "microbatch_size"):
    if getattr(config, name):
      check_batch(name, getattr(config, name), mesh)
  vocabulary = vocabulary or train_data.vocabulary()
  config = derive(config, vocabulary=vocabulary, mesh=mesh.shape, platform=platform)
  trainer: Trainer = fdl.build(derive_schedules(config, config.num_steps or 1))
  check_objective(trainer.objective, trainer.num_microbatches)
  example = train_data.example(trainer.sequence_length)
  model = ModelInit(trainer.model, trainer.objective, example)
  num_rows = trainer.microbatch_size or trainer.batch_size
  layouts = [
    *parameter_layouts(model.boxed, trainer.sharding, mesh.shape),
    *activation_layouts(model.constraints, trainer.sharding, mesh.shape, num_rows),
  ]
  check_divides(layouts, config)
  warn_of_idle_axes(layouts, mesh.shape)
  return Blueprint(config, trainer, model, layouts)


def assemble(config: fdl.Config, cache_dir: str) -> Assembly:
  """The parts of the run that `config` describes; token stores are built if need be.

  Raises:
    UserError: something in the config does not fit the data, the model or the devices.
  """
  config = derive_eval_data(config)
  check_numbers(config)
  mesh = fdl.build(config.mesh).build()
  train_data: Any = fdl.build(config.train_data)
  eval_data = {name: fdl.build(data) for name, data in (config.eval_data or {}).items()}
  for name, data in eval_data.items():
    _check_vocabulary(name, data, train_data)
  blueprint = draw(config, mesh, train_data)  # what is wrong shows before a store is built
  check_memory(blueprint.initializer(blueprint.trainer, mesh).abstract, mesh)
  batches = _open(train_data, config, cache_dir, seed=config.seed, num_epochs=config.num_epochs)
  eval_batches = {
    name: _open(data, config, cache_dir, seed=None) for name, data in eval_data.items()
  }
  num_steps = config.num_steps or batches.num_batches
  assert num_steps is not None  # num_epochs makes the batches finite
  return Assembly(
    config=blueprint.config,
    mesh=mesh,
    batches=batches,
    eval_batches=eval_batches,
    blueprint=blueprint,
    **_of_length(blueprint, mesh, num_steps),
  )


def _of_length(
  blueprint: "Blueprint", mesh: jax.sharding.Mesh, num_steps: int
) -> dict[str, Any]:
  """The fields of an Assembly that depend on how long the run is, as its schedules do."""
  config, trainer = derive_schedules(blueprint.config, num_steps), blueprint.trainer
  if blueprint.config.num_steps is None:  # only now are the schedules known
    trainer = fdl.build(config)
  return {
    "num_steps": num_steps,
    "trainer": trainer,
    "initializer": blueprint.initializer(trainer, mesh),
    "learning_rates": learning_rates(config.optimizer),
  }


def _check_vocabulary(name: str, data: Any, train_data: Any) -> None:
  """An id means another thing in another vocabulary, and the loss would mean nothing."""
  of = lambda data: (vocabulary := data.vocabulary()) and vocabulary.fingerprint()
  if of(data) != of(train_data):
    raise UserError(
      f"eval_data['{name}'] ({type(data).__name__}) and train_data "
      f"({type(train_data).__name__}) have different vocabularies; evaluate on the same kind "
      f"of data: --set=eval_data['{name}']=@..., or on none: --set=eval_data={{}}"
    )


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


def _open(data: Any, config: fdl.Config, cache_dir: str, **order: Any) -> Batches:
  return data.open(
    sequence_length=config.sequence_length,
    batch_size=config.batch_size,
    cache_dir=cache_dir,
    shard_index=jax.process_index(),
    num_shards=jax.process_count(),
    **order,
  )
