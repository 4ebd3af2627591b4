"""The commands of docs/data.md do what it says."""

import json
from pathlib import Path

import pytest

from experiments.command_line import main
from tests.shown_commands import runner_commands

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
COMMANDS = runner_commands(PAGE)


@pytest.mark.parametrize("arguments", COMMANDS[:2], ids=["packed", "padded"])
def test_a_command_shows_rows_of_ones_own_text(arguments, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "my").mkdir()
  with open("my/a.jsonl", "w") as file:
    for i in range(300):
      file.write(json.dumps({"question": f"what is {i}?", "answer": f"{i} "}) + "\n")
  assert main(["runner", *arguments, "--set=sequence_length=64", "--cache_dir=cache"]) == 0
  assert "what is " in capsys.readouterr().out


def test_the_mixture_of_the_page_is_what_the_command_line_reads(tmp_path, monkeypatch, capsys):
  assert len(COMMANDS) == 4 and "Mixture" in COMMANDS[3][-1]
  assert main(["runner", "show", *COMMANDS[3][1:]]) == 0
  out = capsys.readouterr().out
  assert "train_data.rates = {'mine': 3.0, 'code': 1.0}" in out
  assert "train_data.sources['code'] = @tasks.python_stdlib:PythonStdlib()" in out


def test_a_text_file_is_read_as_bytes(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  Path("my.txt").write_text("the quick brown fox\n" * 200)
  assert main(["runner", *COMMANDS[2], "--set=sequence_length=64", "--cache_dir=cache"]) == 0
  assert "quick brown" in capsys.readouterr().out
  assert main(["runner", "show", *COMMANDS[2][1:]]) == 0
  assert "train_data.tokens = 'bytes'" in capsys.readouterr().out
