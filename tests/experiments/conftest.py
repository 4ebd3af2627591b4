"""The command line as a test uses it."""

import pytest

from experiments.command_line import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
  """Runs the command line in this process, in an empty folder: (code, stdout, stderr lines)."""
  monkeypatch.chdir(tmp_path)

  def call(*arguments: str):
    code = main(["runner", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()

  return call
