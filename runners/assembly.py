"""Everything a run is made of, before any array is allocated.

Training and evaluation begin here. What is wrong with an experiment shows here, before the
workdir is touched; how a config becomes these parts stands in runners/blueprint.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import fiddle as fdl
import jax

from input_pipelines.batches import Batches, Data
from input_pipelines.mixing import MixedBatches
from layers.errors import UserError
from runners.blueprint import Blueprint, draw, lay_ground
from runners.callbacks import Callback
from runners.devices.memory import check_memory
from runners.devices.meshes import batch_sharding
from runners.evaluation import Evaluator
from runners.logged_rows import LoggedRows
from runners.source_tokens import SourceTokens
from runners.step_flops import model_flops
from runners.train_state import Initializer
from runners.train_step import make_eval_step, make_train_step
from runners.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Assembly:
  """The parts of a run.

  Attributes:
    blueprint: what the config means on the mesh; its schedules know `num_steps`.
    num_steps: where training ends.
    batches: of the training data; eval_batches: name -> batches.
  """

  blueprint: Blueprint
  num_steps: int
  batches: Batches
  eval_batches: Mapping[str, Batches]

  @property
  def config(self) -> fdl.Config:
    return self.blueprint.config

  @property
  def trainer(self) -> Trainer:
    return self.blueprint.trainer

  @property
  def mesh(self) -> jax.sharding.Mesh:
    return self.blueprint.mesh

  @property
  def initializer(self) -> Initializer:
    return self.blueprint.initializer

  @property
  def learning_rates(self) -> Mapping[str, Any]:
    return self.blueprint.learning_rates

  def continued_from(self, step: int, position: int) -> "Assembly":
    """The run whose batch `step` begins at row `position` of all epochs laid end to end.

    A run of epochs, whose batches were of another size before, has another length then.
    """
    batches: Any = self.batches
    batches.continue_from(step, position)
    if self.config.num_steps is not None:
      return self
    length = batches.num_batches
    return dataclasses.replace(
      self, num_steps=length, blueprint=self.blueprint.of_length(length)
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
    """The trainer's callbacks, between the two that Strata adds.

    Tokens of each source are counted first, so that all callbacks see the counts. Rows are
    counted last (runners/logged_rows.py says why).
    """
    counting = [SourceTokens(self.batches)] if isinstance(self.batches, MixedBatches) else []
    return (*counting, *self.trainer.callbacks, self.logged_rows)

  @functools.cached_property
  def logged_rows(self) -> LoggedRows:
    return LoggedRows()

  def model_flops(self) -> int:
    """FLOPs of one update (runners/step_flops.py)."""
    return model_flops(self.config.model, self.trainer, self.initializer.abstract)

  def train_step(self) -> jax.stages.Wrapped:
    """Jitted, donating the state."""
    return jitted_train_step(self.trainer, self.initializer, self.mesh)

  def evaluator(self, give_up: Callable[[], bool] = lambda: False) -> Evaluator:
    """Evaluates on all evaluation data; `give_up` as in Evaluator."""
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


def assemble(config: fdl.Config, cache_dir: str) -> Assembly:
  """The parts of the run that `config` describes; token stores are built if need be.

  Raises:
    UserError: something in the config does not fit the data, the model or the devices.
  """
  ground = lay_ground(config)
  for name, data in ground.eval_data.items():
    _check_vocabulary(name, data, ground.train_data)
  blueprint = draw(ground, ground.mesh.build())  # what is wrong shows before a store is built
  check_memory(blueprint.initializer.abstract, blueprint.mesh)
  batches = _open(
    ground.train_data, config, cache_dir, seed=config.seed, num_epochs=config.num_epochs
  )
  eval_batches = {
    name: _open(data, config, cache_dir, seed=None) for name, data in ground.eval_data.items()
  }
  num_steps = config.num_steps or batches.num_batches
  assert num_steps is not None  # num_epochs makes the batches finite
  return Assembly(
    blueprint=blueprint.of_length(num_steps),
    num_steps=num_steps,
    batches=batches,
    eval_batches=eval_batches,
  )


def _check_vocabulary(name: str, data: Data, train_data: Data) -> None:
  """An id means another thing in another vocabulary, and the loss would mean nothing."""
  vocabularies = [each.vocabulary() for each in (data, train_data)]
  one, other = (None if each is None else each.fingerprint() for each in vocabularies)
  if one != other:
    raise UserError(
      f"eval_data['{name}'] ({type(data).__name__}) and train_data "
      f"({type(train_data).__name__}) have different vocabularies; evaluate on the same kind "
      f"of data: --set=eval_data['{name}']=@..., or on none: --set=eval_data={{}}"
    )


def _open(data: Data, config: fdl.Config, cache_dir: str, **order: Any) -> Batches:
  return data.open(
    sequence_length=config.sequence_length,
    batch_size=config.batch_size,
    cache_dir=cache_dir,
    shard_index=jax.process_index(),
    num_shards=jax.process_count(),
    **order,
  )
