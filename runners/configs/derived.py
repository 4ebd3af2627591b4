"""Which fields of a config are derived, and from what.

A field is derived only if experiment and command line leave it unset. SOURCES lists the fields,
for every config node below a field of the trainer. Evaluation data of the same class as
train_data take their unset fields from it.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import fiddle as fdl
from fiddle import daglish

from runners.configs.tree import copy_config, path_text

PRECISION_FIELDS = ("compute_dtype", "param_dtype", "activation_dtype")

# Field of the trainer -> name of a parameter on any node below it -> source of its value.
SOURCES = {
  "model": {
    **dict.fromkeys(PRECISION_FIELDS, "precision"),
    "vocab_size": "train_data",
    "padded_vocab_size": "train_data, mesh, sharding",
    "max_positions": "sequence_length",
    "residual_depth": "model.num_layers",
  },
  "objective": {"token_bytes": "train_data"},
  "optimizer": {"num_steps": "num_steps or num_epochs"},
}


# Never taken from train_data: these fields choose the part of the data to evaluate.
_OF_ITS_OWN = {"split", "num_batches"}


def derived_fields(config: fdl.Config) -> dict[str, str]:
  """Path -> source, as text, of every field of `config` that will be derived."""
  return {
    path_text((*path, daglish.Attr(name))): sources[name]
    for root, sources in SOURCES.items()
    for path, node, name in unset_fields(
      getattr(config, root, None), sources, (daglish.Attr(root),)
    )
  }


def unset_fields(root: Any, names: Any, prefix: Any = ()) -> Iterator[tuple[Any, Any, str]]:
  """(path, node, name) for each of `names` that a node below `root` has and leaves unset."""
  for node, path in daglish.iterate(root):
    if isinstance(node, fdl.Buildable):
      parameters = inspect.signature(fdl.get_callable(node)).parameters
      for name in names:
        if name in parameters and name not in node.__arguments__:
          yield (*prefix, *path), node, name


def derived_places(config: fdl.Config) -> set[tuple[int, str]]:
  """(id of a node, field) of all that is derived where it is unset.

  Such a field says nothing of its own: another default of its class changes no run.
  """
  places = {
    (id(node), name)
    for root, sources in SOURCES.items()
    for _, node, name in unset_fields(getattr(config, root, None), sources)
  }
  train = getattr(config, "train_data", None)
  eval_data = getattr(config, "eval_data", None)
  for data in eval_data.values() if isinstance(eval_data, Mapping) else ():
    if _takes_over(data, train):
      names = inspect.signature(fdl.get_callable(data)).parameters
      places |= {(id(data), name) for name in names if name not in _OF_ITS_OWN}
  return places


def derive_eval_data(config: fdl.Config) -> fdl.Config:
  """A copy in which evaluation data take their unset fields from train_data."""
  config = copy_config(config)
  train = config.train_data
  for data in (config.eval_data or {}).values():
    if not _takes_over(data, train):
      continue
    for name in train.__arguments__.keys() - data.__arguments__.keys() - _OF_ITS_OWN:
      setattr(data, str(name), train.__arguments__[name])
  return config


def _takes_over(data: Any, train: Any) -> bool:
  """Whether evaluation data take from training data what they leave unset."""
  nodes = isinstance(data, fdl.Buildable) and isinstance(train, fdl.Buildable)
  return nodes and fdl.get_callable(data) is fdl.get_callable(train)
