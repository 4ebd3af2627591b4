"""One fact, one field: what follows from the rest of an experiment is filled in here.

Only what the experiment and the command line leave unset is derived:

  eval_data[name].*                  train_data's, where both are of the same class
  model.**.vocab_size                the vocabulary of train_data
  model.**.padded_vocab_size         the next multiple of the mesh's tensor axis
  model.**.max_positions             sequence_length
  model.**.residual_depth            model.num_layers
  model.**.{compute,param,activation}_dtype   precision, and the platform where that is unset
  optimizer.**.num_steps             the length of the run
  objective.token_bytes              bytes of text per id, from the vocabulary
"""

import copy
import inspect
import math
from typing import Any

import fiddle as fdl
import jax
from absl import logging
from fiddle import daglish

from input_pipelines.vocabularies import Vocabulary

_DTYPES = ("compute_dtype", "param_dtype", "activation_dtype")


def derive_eval_data(config: fdl.Config) -> fdl.Config:
  """A copy in which evaluation data take from train_data what they leave unset.

  `split` and `num_batches` say which part is evaluated and are never taken.
  """
  config = copy.deepcopy(config)
  train = config.train_data
  for data in (config.eval_data or {}).values():
    if fdl.get_callable(data) is not fdl.get_callable(train):
      continue
    for name, value in fdl.ordered_arguments(train).items():
      if name not in ("split", "num_batches") and name not in data.__arguments__:
        setattr(data, name, value)
  return config


def derive(config: fdl.Config, *, vocabulary: Vocabulary | None, num_steps: int) -> fdl.Config:
  """A copy with everything of the table above filled in.

  Args:
    config: of a Trainer.
    vocabulary: of the training data; None for data without one.
    num_steps: the length of the run.
  """
  config = derive_eval_data(config)
  facts: dict[str, Any] = {
    **_precision(config),
    "max_positions": config.sequence_length,
    "residual_depth": getattr(config.model, "num_layers", None),
  }
  if vocabulary is not None:
    facts["vocab_size"] = vocabulary.vocab_size
    facts["padded_vocab_size"] = _padded(vocabulary.vocab_size, config)
    _fill(config.objective, {"token_bytes": vocabulary.token_bytes()})
  _fill(config.model, facts)
  _fill(config.optimizer, {"num_steps": num_steps})
  return config


def _fill(root: Any, facts: dict[str, Any]) -> None:
  """Sets each fact on each config under `root` that has such a parameter, unset."""
  for node, _ in daglish.iterate(root):
    if not isinstance(node, fdl.Buildable):
      continue
    parameters = inspect.signature(fdl.get_callable(node)).parameters
    for name in facts.keys() & parameters.keys() - node.__arguments__.keys():
      setattr(node, name, facts[name])


def _precision(config: fdl.Config) -> dict[str, str]:
  precision = fdl.build(config.precision)
  on_cpu = jax.default_backend() == "cpu"
  compute = precision.compute_dtype or ("float32" if on_cpu else "bfloat16")
  activation = precision.activation_dtype or ("float32" if on_cpu else compute)
  return dict(zip(_DTYPES, (compute, precision.param_dtype, activation), strict=True))


def _padded(vocab_size: int, config: fdl.Config) -> int:
  tensor = fdl.build(config.mesh).sizes(jax.device_count())["tensor"]
  padded = tensor * math.ceil(vocab_size / tensor)
  if padded != vocab_size:
    logging.warning(
      "The vocabulary of %d is padded to %d, a multiple of mesh.tensor=%d.",
      vocab_size,
      padded,
      tensor,
    )
  return padded
