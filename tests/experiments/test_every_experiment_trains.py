"""Law 10, second half: every registered experiment, shrunk, trains two steps."""

import json

import pytest

from runners.training import train
from tests.experiments.shrinking import ENTRIES, shrink, write_text


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_experiment_shrunk_trains_two_steps(name, tmp_path):
  text_file = write_text(tmp_path / "text.txt")
  config = shrink(ENTRIES[name].experiment().config(), text_file)
  assert train(config, name, str(tmp_path / "run")) == 0
  rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
  assert [row["step"] for row in rows] == [1, 2]
  assert all(0 < row["train/loss"] < 12 for row in rows)
  assert 0 < rows[-1]["eval/validation/loss"] < 12
