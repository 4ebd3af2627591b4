"""One fact, one field: fills in fields that follow from the rest of an experiment.

runners/configs/derived.py lists these fields.
"""

import math
from collections.abc import Mapping
from typing import Any

import fiddle as fdl
import jax

from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from layers.notices import note
from runners.configs.derived import PRECISION_FIELDS, unset_fields
from runners.configs.tree import copy_config
from runners.devices.layout import vocabulary_split
from runners.model_traits import traits

# Columns of a product's tile on accelerators: others leave part of a tile idle.
_TILE = 128


def derive(
  config: fdl.Config,
  *,
  vocabulary: Vocabulary | None,
  mesh: Mapping[str, int],
  num_steps: int | None,
  platform: str | None = None,
) -> fdl.Config:
  """A copy with everything of SOURCES filled in.

  Args:
    config: of a Trainer.
    vocabulary: of the training data; None for data without one.
    mesh: axis -> devices along it.
    num_steps: of the run; None leaves schedules for `derive_schedules`.
    platform: of the devices; None: jax's default.
  """
  config = copy_config(config)
  platform = platform or jax.default_backend()
  facts: dict[str, Any] = {
    **_precision(config, platform),
    "max_positions": config.sequence_length,
    "residual_depth": traits(config.model).num_layers,
  }
  if vocabulary is not None:
    facts["vocab_size"] = _vocab_size(config, vocabulary)
    facts["padded_vocab_size"] = _padded(facts["vocab_size"], config, mesh, platform)
    if (token_bytes := vocabulary.token_bytes()) is not None:
      _fill(config.objective, {"token_bytes": token_bytes})
  _fill(config.model, facts)
  if num_steps is not None:
    _fill(config.optimizer, {"num_steps": num_steps})
  return config


def derive_schedules(config: fdl.Config, num_steps: int) -> fdl.Config:
  """A copy in which schedules know the length of the run."""
  config = copy_config(config)
  _fill(config.optimizer, {"num_steps": num_steps})
  return config


def _fill(root: Any, facts: dict[str, Any]) -> None:
  """Sets each fact on every node below `root` that has the parameter and leaves it unset."""
  for _, node, name in list(unset_fields(root, facts)):
    setattr(node, name, facts[name])


def _precision(config: fdl.Config, platform: str) -> dict[str, str]:
  precision, on_cpu = fdl.build(config.precision), platform == "cpu"
  compute = precision.compute_dtype or ("float32" if on_cpu else "bfloat16")
  activation = precision.activation_dtype or ("float32" if on_cpu else compute)
  return dict(zip(PRECISION_FIELDS, (compute, precision.param_dtype, activation), strict=True))


def _vocab_size(config: fdl.Config, vocabulary: Vocabulary) -> int:
  """The model's own vocabulary size, which may exceed the data's; if unset, the data's."""
  vocab_size = traits(config.model).vocab_size or vocabulary.vocab_size
  if vocab_size < vocabulary.vocab_size:
    # An id beyond the table would silently be clipped to its last row.
    raise UserError(
      f"model.vocab_size={vocab_size} is less than the {vocabulary.vocab_size} ids of the "
      "training data; raise it, or leave it unset"
    )
  return vocab_size


def _padded(vocab_size: int, config: fdl.Config, mesh: Mapping[str, int], platform: str) -> int:
  multiple, axes = vocabulary_split(config.sharding, mesh)
  reasons = [f"{axes}={multiple}"] if multiple > 1 else []
  if platform != "cpu":
    multiple = math.lcm(multiple, _TILE)
    reasons.append(f"{_TILE}, the width of a tile of matrix units")
  padded = multiple * math.ceil(vocab_size / multiple)
  if padded != vocab_size:
    note(
      f"The vocabulary of {vocab_size} is padded to {padded}, a multiple of "
      f"{' and of '.join(reasons)}."
    )
  return padded
