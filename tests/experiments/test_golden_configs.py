"""Law 10, first half: every registered experiment matches its golden config file.

After an intended change: pytest tests/experiments/test_golden_configs.py --update-golden, then
read the diff of tests/golden/ before committing it with its reason.
"""

from pathlib import Path

import pytest

from experiments.registry import all_experiments
from runners.configs.files import to_text

GOLDEN = Path(__file__).parent.parent / "golden"
ENTRIES = {
  entry.name: entry
  for entry in all_experiments()
  if entry.experiment.__module__.startswith("experiments.")  # not the toys of other tests
}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_config_matches_its_golden_file(name, update_golden):
  text = to_text(ENTRIES[name].experiment().config())
  file = GOLDEN / f"{name}.txt"
  if update_golden:
    GOLDEN.mkdir(exist_ok=True)
    file.write_text(text)
  assert text == file.read_text(), f"{name} differs from {file}"


def test_no_golden_file_outlives_its_experiment():
  assert {file.stem for file in GOLDEN.glob("*.txt")} == set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_call_gives_a_fresh_config(name):
  experiment = ENTRIES[name].experiment()
  changed = experiment.config()
  changed.model.num_layers = 99
  changed.writers.clear()
  assert to_text(experiment.config()) == to_text(ENTRIES[name].experiment().config())
