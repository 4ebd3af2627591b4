"""Law 1 where a signal cuts an evaluation off: it is made when the run goes on, bitwise."""

import os
import signal

import fiddle as fdl
import pytest

from runners.checkpoints.listing import steps
from runners.checkpoints.retention import Checkpoints
from runners.evaluation import Evaluator
from runners.metrics.json_lines import JsonLines, read
from runners.training import train
from runners.workdir import read_starts
from tests.runners.toy_run import ToyText, toy_config


def start(workdir):
  config = toy_config(
    num_steps=6,
    log_every=2,
    eval_every=3,
    eval_data={"validation": fdl.Config(ToyText, split="validation")},
    checkpoints=fdl.Config(Checkpoints, every=2, keep_latest=9),
    writers=[fdl.Config(JsonLines)],
  )
  return train(config, "toy", str(workdir))


def rows(workdir):
  found = read(str(workdir / "metrics.jsonl"))
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in found]


@pytest.mark.parametrize("interrupted", [[0], [1], [0, 1, 2]])
def test_the_rows_of_a_run_whose_evaluations_were_cut_off_are_those_of_the_unbroken_one(
  tmp_path, monkeypatch, interrupted
):
  assert start(tmp_path / "unbroken") == 0
  evaluate, count = Evaluator._evaluate, [-1]

  def interrupting(self, *arguments):
    count[0] += 1
    if count[0] in interrupted:
      os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(self, *arguments)

  monkeypatch.setattr(Evaluator, "_evaluate", interrupting)
  for _ in interrupted:
    assert start(tmp_path / "broken") == 143
    assert "ended" in read_starts(tmp_path / "broken")[-1]
    assert not read_starts(tmp_path / "broken")[-1]["ended"]["finished"]
  assert start(tmp_path / "broken") == 0
  assert rows(tmp_path / "broken") == rows(tmp_path / "unbroken")
  assert steps(str(tmp_path / "broken"))[-1] == 6
  assert start(tmp_path / "broken") == 0  # its row is not there twice
  assert rows(tmp_path / "broken") == rows(tmp_path / "unbroken")
  assert read_starts(tmp_path / "broken")[-1]["ended"]["finished"]
