"""FLOPs of one update: of the model, and of the compiled program.

Model FLOPs do not depend on the implementation: attention counts all scores of a row, like the
dense core, so that MFU can compare cores, meshes and machines. Program FLOPs omit skipped
blocks and include recomputation.
"""

import inspect
from typing import Any

import fiddle as fdl
import jax

from layers.attention_cores.dense import dense_attention
from runners.configs.tree import copy_config, walk
from runners.devices.flops import train_step_flops
from runners.forward import ModelForward, outcome
from runners.train_state import TrainState
from runners.trainer import Trainer
from tasks.objective import with_rows


def model_flops(model: fdl.Config, trainer: Trainer, state: TrainState) -> int:
  """Model FLOPs of one update on the global batch: see runners/devices/flops.py.

  Args:
    model: the config of trainer.model.
    trainer: built.
    state: shapes.
  """
  reference: Any = fdl.build(_with_dense_cores(model))

  def loss(params: Any, variables: Any, batch: Any) -> Any:
    forward = ModelForward(reference, params, variables, batch)
    return outcome(objective, forward, batch, objective.totals(batch)).loss

  objective = trainer.objective
  batch = jax.eval_shape(with_rows, global_batch(trainer))
  return train_step_flops(loss, state.params, state.variables, batch)


def global_batch(trainer: Trainer, sharding: Any = None) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of one update's batch, key -> [B, ...]."""
  example = trainer.train_data.example(trainer.sequence_length)
  return {
    key: jax.ShapeDtypeStruct((trainer.batch_size, *x.shape[1:]), x.dtype, sharding=sharding)
    for key, x in example.items()
  }


def _with_dense_cores(model: fdl.Config) -> fdl.Config:
  model = copy_config(model)
  for _, node, _ in [((), model, None), *walk(model)]:
    if isinstance(node, fdl.Buildable):
      if "core" in inspect.signature(fdl.get_callable(node)).parameters:
        node.core = dense_attention
  return model
