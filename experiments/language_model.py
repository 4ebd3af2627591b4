"""The base of experiments on text: a config assembled from parts that a member may replace."""

import fiddle as fdl

from experiments.registry import Experiment
from layers.sharding import Rules
from runners import optimizers, schedules
from runners.callbacks import StopOnNonFinite
from runners.checkpoints.retention import Checkpoints
from runners.devices import meshes
from runners.metrics.writers import Console, JsonLines, TensorBoard
from runners.trainer import Precision, Trainer
from tasks.language_modeling import NextToken
from tasks.python_stdlib import PythonStdlib


class LanguageModel(Experiment):
  """Next-token prediction. A family gives the model; a member gives numbers."""

  batch_size: int = 8
  sequence_length: int = 256
  microbatch_size: int | None = None
  num_steps: int = 1000
  log_every: int = 10
  eval_every: int | None = 100

  def config(self) -> fdl.Config[Trainer]:
    return fdl.Config(
      Trainer,
      model=self.model(),
      objective=fdl.Config(NextToken),
      train_data=self.train_data(),
      eval_data=self.eval_data(),
      optimizer=self.optimizer(),
      batch_size=self.batch_size,
      sequence_length=self.sequence_length,
      microbatch_size=self.microbatch_size,
      num_steps=self.num_steps,
      mesh=self.mesh(),
      sharding=self.sharding(),
      precision=self.precision(),
      log_every=self.log_every,
      eval_every=self.eval_every,
      checkpoints=self.checkpoints(),
      callbacks=[fdl.Config(StopOnNonFinite)],
      writers=self.writers(),
      collective_budget=self.collective_budget(),
    )

  def model(self) -> fdl.Config:
    raise TypeError(f"{type(self).__name__} has no model(): a family must give one")

  def train_data(self) -> fdl.Config:
    return fdl.Config(PythonStdlib, split="train")

  def eval_data(self) -> dict[str, fdl.Config]:
    return {"validation": fdl.Config(type_of(self.train_data()), split="validation")}

  def optimizer(self) -> fdl.Config:
    return fdl.Config(
      optimizers.adamw, learning_rate=fdl.Config(schedules.warmup_cosine, peak=3e-4)
    )

  def mesh(self) -> fdl.Config:
    return fdl.Config(meshes.MeshShape)

  def sharding(self) -> Rules:
    return meshes.DEFAULT_RULES

  def precision(self) -> fdl.Config:
    return fdl.Config(Precision)

  def checkpoints(self) -> fdl.Config:
    return fdl.Config(Checkpoints)

  def collective_budget(self) -> list[fdl.Config]:
    """Collectives that the program may contain: see runners/devices/collective_budget.py."""
    return []

  def writers(self) -> list[fdl.Config]:
    return [fdl.Config(Console), fdl.Config(JsonLines), fdl.Config(TensorBoard)]


def type_of(config: fdl.Config) -> type:
  """The class that a config configures."""
  return fdl.get_callable(config)  # pyright: ignore[reportReturnType]
