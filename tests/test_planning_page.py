"""The commands of docs/planning.md do what it says."""

from pathlib import Path

import pytest

from experiments.command_line import main
from tests.shown_commands import runner_commands

PAGE = (Path(__file__).parent.parent / "docs" / "planning.md").read_text()
COMMANDS = runner_commands(PAGE)


@pytest.mark.slow
def test_the_first_command_plans_and_fits(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert main(["runner", *COMMANDS[0], "--set=sequence_length=64"]) == 0
  assert "fits: the peak is" in capsys.readouterr().out


@pytest.mark.slow
def test_the_second_says_where_the_time_goes_and_lists_kernels(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert main(["runner", *COMMANDS[1], "--set=sequence_length=64"]) == 0
  said = capsys.readouterr().out
  assert "MB by part" in said and "feed-forward" in said and "optimizer" in said
  assert "the 20 dearest of" in said and "layers/feed_forward.py:" in said


def test_the_page_names_every_topology():
  from runners.planning.topologies import ACCELERATORS

  assert {name for name in ACCELERATORS if f"`{name}:" in PAGE} == set(ACCELERATORS)


def test_the_search_is_of_an_experiment_and_devices_that_there_are():
  from experiments.registry import find
  from runners.planning.topologies import parse

  flags = dict(word.lstrip("-").split("=", 1) for word in COMMANDS[2] if "=" in word)
  assert find(flags["exp"]) and parse(flags["topology"]).num_devices == 256
