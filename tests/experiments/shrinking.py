"""A registered experiment at a size that trains in a second, otherwise as it is."""

from pathlib import Path

import fiddle as fdl

from experiments.registry import all_experiments
from runners.configs.tree import copy_config

ENTRIES = {
  entry.name: entry
  for entry in all_experiments()
  if entry.experiment.__module__.startswith("experiments.")  # not the toys of other tests
}


def write_text(file: Path) -> Path:
  """A text file for the experiments that read one."""
  file.write_text("To be, or not to be, that is the question. " * 40)
  return file


def shrink(config: fdl.Config, text_file: Path) -> fdl.Config:
  """The same experiment with two thin layers, short rows and few of them."""
  config = copy_config(config)
  config.model.num_layers = 2
  config.model.model_dim = 16  # one width for all: sizes of a family become the same program
  config.model.block.attention.num_heads = 4
  config.model.block.attention.head_dim = 4
  if getattr(config.model.block.feed_forward, "hidden_dim", None):
    config.model.block.feed_forward.hidden_dim = 2 * config.model.model_dim
  config.batch_size, config.sequence_length, config.num_steps = 4, 16, 2
  config.microbatch_size = 2 if config.microbatch_size else None
  config.log_every = 1
  config.init_from = None  # the run before it is not there
  for data in config.eval_data.values():
    data.num_batches = 2
  if getattr(config.train_data, "path", "none") is None:
    config.train_data.path = str(text_file)
  config.writers = [w for w in config.writers if "TensorBoard" not in repr(w)]
  return config
