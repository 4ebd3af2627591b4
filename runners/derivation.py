"""One fact, one field: what follows from the rest of an experiment is filled in here.

Only what the experiment and the command line leave unset is derived: the fields of SOURCES, on
every config node below the field of the trainer that they stand under, and evaluation data,
which take from train_data what they leave unset where both are of the same class.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import fiddle as fdl
import jax
from fiddle import daglish

from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from layers.notices import note
from runners.config_tree import copy_config, path_text
from runners.layout import vocabulary_split

_PRECISION = {
  "compute_dtype": "precision",
  "param_dtype": "precision",
  "activation_dtype": "precision",
}

# Field of the trainer -> name of a parameter on any node below it -> where its value is from.
SOURCES = {
  "model": {
    **_PRECISION,
    "vocab_size": "train_data",
    "padded_vocab_size": "train_data, mesh, sharding",
    "max_positions": "sequence_length",
    "residual_depth": "model.num_layers",
  },
  "objective": {"token_bytes": "train_data"},
  "optimizer": {"num_steps": "num_steps or num_epochs"},
}


# What says which part of the data is evaluated is never taken from train_data.
_OF_ITS_OWN = {"split", "num_batches"}


def derived_fields(config: fdl.Config) -> dict[str, str]:
  """Path -> source of every field of `config` that will be derived, for showing."""
  return {
    path_text((*path, daglish.Attr(name))): sources[name]
    for root, sources in SOURCES.items()
    for path, node, name in _unset(getattr(config, root, None), sources, (daglish.Attr(root),))
  }


def _unset(root: Any, names: Any, prefix: Any = ()) -> Iterator[tuple[Any, Any, str]]:
  """(path, node, name) of each of `names` that a node below `root` has and leaves unset."""
  for node, path in daglish.iterate(root):
    if isinstance(node, fdl.Buildable):
      parameters = inspect.signature(fdl.get_callable(node)).parameters
      for name in names:
        if name in parameters and name not in node.__arguments__:
          yield (*prefix, *path), node, name


def derive_eval_data(config: fdl.Config) -> fdl.Config:
  """A copy in which evaluation data take from train_data what they leave unset."""
  config = copy_config(config)
  train = config.train_data
  for data in (config.eval_data or {}).values():
    if not (isinstance(data, fdl.Buildable) and isinstance(train, fdl.Buildable)):
      continue
    if fdl.get_callable(data) is not fdl.get_callable(train):
      continue
    for name in train.__arguments__.keys() - data.__arguments__.keys() - _OF_ITS_OWN:
      setattr(data, str(name), train.__arguments__[name])
  return config


def derive(
  config: fdl.Config,
  *,
  vocabulary: Vocabulary | None,
  mesh: Mapping[str, int],
  platform: str | None = None,
) -> fdl.Config:
  """A copy with everything of SOURCES filled in but what `derive_schedules` does.

  Args:
    config: of a Trainer.
    vocabulary: of the training data; None for data without one.
    mesh: axis -> devices along it.
    platform: of the devices; None: jax's default.
  """
  config = derive_eval_data(config)
  facts: dict[str, Any] = {
    **_precision(config, platform or jax.default_backend()),
    "max_positions": config.sequence_length,
    "residual_depth": getattr(config.model, "num_layers", None),
  }
  if vocabulary is not None:
    facts["vocab_size"] = _vocab_size(config, vocabulary)
    facts["padded_vocab_size"] = _padded(facts["vocab_size"], config, mesh)
    if (token_bytes := vocabulary.token_bytes()) is not None:
      _fill(config.objective, {"token_bytes": token_bytes})
  _fill(config.model, facts)
  return config


def derive_schedules(config: fdl.Config, num_steps: int) -> fdl.Config:
  """A copy in which schedules know the length of the run."""
  config = copy_config(config)
  _fill(config.optimizer, {"num_steps": num_steps})
  return config


def _fill(root: Any, facts: dict[str, Any]) -> None:
  """Sets each fact on each node below `root` that has such a parameter, unset."""
  for _, node, name in list(_unset(root, facts)):
    setattr(node, name, facts[name])


def _precision(config: fdl.Config, platform: str) -> dict[str, str]:
  precision, on_cpu = fdl.build(config.precision), platform == "cpu"
  compute = precision.compute_dtype or ("float32" if on_cpu else "bfloat16")
  activation = precision.activation_dtype or ("float32" if on_cpu else compute)
  return dict(zip(_PRECISION, (compute, precision.param_dtype, activation), strict=True))


def _vocab_size(config: fdl.Config, vocabulary: Vocabulary) -> int:
  """The model's own, which may be larger than the data's, or the data's."""
  vocab_size = getattr(config.model, "vocab_size", None) or vocabulary.vocab_size
  if vocab_size < vocabulary.vocab_size:
    # An id beyond the table would be clipped to its last row without a word.
    raise UserError(
      f"model.vocab_size={vocab_size} is less than the {vocabulary.vocab_size} ids of the "
      "training data; raise it, or leave it unset"
    )
  return vocab_size


def _padded(vocab_size: int, config: fdl.Config, mesh: Mapping[str, int]) -> int:
  multiple, axes = vocabulary_split(config.sharding, mesh)
  padded = multiple * math.ceil(vocab_size / multiple)
  if padded != vocab_size:
    note(
      f"The vocabulary of {vocab_size} is padded to {padded}, a multiple of {axes}={multiple}."
    )
  return padded
