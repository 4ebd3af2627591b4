"""Law 10, second half: every registered experiment, shrunk, trains two steps.

To train is to move every parameter: a loss that is finite says nothing of that.
"""

import json

import numpy as np
import pytest

from runners.checkpoints.reading import open_step, read_arrays
from runners.training import train
from tests.experiments.shrinking import ENTRIES, shrink, write_text


@pytest.mark.slow
@pytest.mark.plain
@pytest.mark.parametrize("name", ENTRIES)
def test_every_experiment_shrunk_trains_two_steps(name, tmp_path):
  text_file = write_text(tmp_path / "text.txt")
  config = shrink(ENTRIES[name].experiment().config(), text_file)
  config.checkpoints.every = 1
  assert train(config, name, str(tmp_path / "run")) == 0
  rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
  assert [row["step"] for row in rows] == [1, 2]
  assert all(0 < row["train/loss"] < 12 for row in rows)
  assert 0 < rows[-1]["eval/validation/loss"] < 12
  before, after = (_params(tmp_path / "run" / "checkpoints" / step) for step in "12")
  still = [name for name in before if np.array_equal(before[name], after[name])]
  assert before and still == []


def _params(folder):
  """The parameters of a checkpoint, by name."""
  step = open_step(folder)
  return read_arrays(step, [name for name in step.arrays if name.startswith("params/")])
