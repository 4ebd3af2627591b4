"""Law 1: a run killed at any moment and restarted is bitwise the unbroken run.

Everything that could remember something is on: dropout, accumulation, packing, evaluation, and
a log interval that checkpoints do not divide.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.runners.damage import flip_a_byte_of_an_array

STEPS = 240
SETTINGS = [
  "model.num_layers=1",
  "model.model_dim=16",
  "model.dropout_rate=0.1",
  "model.block.dropout_rate=0.1",
  "model.block.attention.dropout_rate=0.1",
  "batch_size=4",
  "microbatch_size=2",
  "sequence_length=16",
  f"num_steps={STEPS}",
  "log_every=3",
  "eval_every=20",
  "eval_data['validation'].num_batches=3",
  "checkpoints.every=7",
  "checkpoints.keep_latest=2",
  "optimizer.learning_rate.warmup=10",
  "writers=[@JsonLines()]",
]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
  words = random.Random(0).choices(["to", "be", "or", "not", "that", "is", "question"], k=4000)
  file = tmp_path_factory.mktemp("text") / "text.txt"
  file.write_text(" ".join(words))
  return file


def start(workdir: Path, *arguments: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "experiments", f"--workdir={workdir}", *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process: subprocess.Popen, want: int = 0) -> str:
  output, _ = process.communicate(timeout=300)
  assert process.returncode == want, output
  return output


@pytest.fixture(scope="module")
def arguments(text_file):
  settings = [f"--set={setting}" for setting in SETTINGS]
  return ["--exp=gpt2.ShakespeareCharCpu", f"--set=train_data.path={text_file}", *settings]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, arguments):
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  finish(start(workdir, *arguments))
  return workdir


def rows(workdir: Path) -> list[dict]:
  """What metrics.jsonl says, but for the clock; a torn last line is not a row yet."""
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines(keepends=True) if file.exists() else []
  parsed = [json.loads(line) for line in lines if line.endswith("\n")]
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in parsed]


def final_state(workdir: Path) -> dict:
  folder = (workdir / "checkpoints" / str(STEPS) / "state").absolute()
  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(folder)


def assert_same_run(workdir: Path, unbroken: Path) -> None:
  got, want = rows(workdir), rows(unbroken)
  assert [row["step"] for row in got] == [row["step"] for row in want]
  assert got == want  # floats printed in full: equal text is equal bits
  assert len({row["step"] for row in got}) == len(got)
  left, right = final_state(workdir), final_state(unbroken)
  leaves = lambda tree: ocp.tree.to_flat_dict(tree)
  assert leaves(left).keys() == leaves(right).keys()
  for name, value in leaves(left).items():
    np.testing.assert_array_equal(value, leaves(right)[name], err_msg=str(name))


@pytest.mark.slow
def test_law_1_ten_kills_at_random_moments_change_nothing(unbroken, arguments, tmp_path):
  workdir, dice = tmp_path / "run", random.Random()
  seed = dice.randrange(10**6)
  dice.seed(seed)
  print(f"seed of the moments: {seed}")
  killed_at = []
  for _ in range(10):
    process = start(workdir, *arguments)
    before = len(rows(workdir))
    while process.poll() is None and len(rows(workdir)) <= before and not killed_at[5:]:
      time.sleep(0.01)
    # The first five die some time after their first new row, the others at any moment at all.
    time.sleep(dice.uniform(0, 0.4) if not killed_at[5:] else dice.uniform(0, 6))
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at.append(rows(workdir)[-1]["step"] if rows(workdir) else 0)
  finish(start(workdir, *arguments))
  print(f"killed after rows {killed_at}")
  assert_same_run(workdir, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_with_its_exit_code(
  number, code, unbroken, arguments, tmp_path
):
  workdir = tmp_path / "run"
  process = start(workdir, *arguments)
  while not rows(workdir):
    time.sleep(0.01)
  os.kill(process.pid, number)
  output = finish(process, want=code)
  assert f"stopped by signal {int(number)}" in output
  stopped = int(output.split("at step ")[1].split(",")[0])
  assert (workdir / "checkpoints" / str(stopped)).is_dir()
  if stopped < STEPS:
    finish(start(workdir, *arguments))
  got = {row["step"]: row for row in rows(workdir)}
  assert all(got[row["step"]] == row for row in rows(unbroken))


@pytest.mark.slow
def test_a_finished_run_started_again_does_nothing(unbroken, arguments):
  before = (unbroken / "metrics.jsonl").read_text()
  assert f"done: {STEPS} steps" in finish(start(unbroken, *arguments))
  assert (unbroken / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_the_config_json_of_a_run_repeats_it_bitwise(unbroken, tmp_path):
  workdir = tmp_path / "again"
  finish(start(workdir, f"--config={unbroken / 'config.json'}"))
  assert_same_run(workdir, unbroken)


@pytest.mark.slow
def test_a_byte_flipped_in_the_newest_checkpoint_is_said_and_changes_nothing(
  unbroken, arguments, tmp_path
):
  workdir = shutil.copytree(unbroken, tmp_path / "run")
  flip_a_byte_of_an_array(workdir / "checkpoints" / str(STEPS))
  verify = [sys.executable, "-m", "experiments", "ckpt", "verify", str(workdir)]
  found = subprocess.run(verify, capture_output=True, text=True)
  assert found.returncode == 1 and found.stdout.count("intact") == 1
  output = finish(start(workdir, *arguments))
  (said,) = [line for line in output.splitlines() if f"Checkpoint {STEPS} is damaged" in line]
  assert "continues from step 238" in said and f"training    step 238 of {STEPS}" in output
  assert_same_run(workdir, unbroken)
  assert subprocess.run(verify, capture_output=True).returncode == 0
