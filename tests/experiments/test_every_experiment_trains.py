"""Law 10, second half: every registered experiment, shrunk, trains two steps."""

import json

import pytest

from experiments.registry import all_experiments
from runners.config_tree import copy_config
from runners.training import train

ENTRIES = {
  entry.name: entry
  for entry in all_experiments()
  if entry.experiment.__module__.startswith("experiments.")  # not the toys of other tests
}


def shrink(config, text_file):
  """The same experiment with two thin layers, short rows and few of them."""
  config = copy_config(config)
  config.model.num_layers = 2
  config.model.model_dim = 16 * config.model.block.attention.num_heads // 4
  config.model.block.attention.num_heads = 4
  config.model.block.attention.head_dim = 4
  config.batch_size, config.sequence_length, config.num_steps = 4, 16, 2
  config.microbatch_size = 2 if config.microbatch_size else None
  config.log_every = 1
  for data in config.eval_data.values():
    data.num_batches = 2
  if getattr(config.train_data, "path", "none") is None:
    config.train_data.path = str(text_file)
  config.writers = [w for w in config.writers if "TensorBoard" not in repr(w)]
  return config


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_experiment_shrunk_trains_two_steps(name, tmp_path):
  text_file = tmp_path / "text.txt"
  text_file.write_text("To be, or not to be, that is the question. " * 40)
  config = shrink(ENTRIES[name].experiment().config(), text_file)
  assert train(config, name, str(tmp_path / "run")) == 0
  rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
  assert [row["step"] for row in rows] == [1, 2]
  assert all(0 < row["train/loss"] < 12 for row in rows)
  assert 0 < rows[-1]["eval/validation/loss"] < 12
