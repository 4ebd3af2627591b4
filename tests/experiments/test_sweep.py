"""`runner sweep` from outside: killed at any moment and started again, it does what is left."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.command_line import main
from runners.checkpoints.listing import steps
from runners.processes.folder_lock import is_held
from runners.workdir import read_starts
from tests.shown_commands import SHRUNK, run

SWEEP = ("sweep", "--exp=gpt2.Nano", *SHRUNK)
SIX = (*SWEEP, "--sweep=seed=1,2", "--sweep=optimizer.learning_rate.peak=1e-4,1e-3,1e-2")
FOLDER = Path("sweeps", "gpt2.Nano")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "experiments", *arguments],
    cwd=folder,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen, want: int = 0) -> tuple[list[str], list[str]]:
  out, err = process.communicate(timeout=300)
  assert process.returncode == want, f"{out}\n{err}"
  return out.splitlines(), err.splitlines()


def children(process: subprocess.Popen) -> list[int]:
  listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True)
  pairs = (map(int, line.split()) for line in listed.stdout.splitlines())
  return [child for child, parent in pairs if parent == process.pid]


def when(done, timeout_s: float = 120) -> None:
  deadline = time.monotonic() + timeout_s
  while not done():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def kill_all(process: subprocess.Popen) -> None:
  """kill -9 of the sweep and of the points that run."""
  for pid in [process.pid, *children(process)]:
    os.kill(pid, signal.SIGKILL)
  process.communicate()


def titles(lines: list[str], word: str) -> list[str]:
  """1/6, 2/6 ... of the lines that begin with `word`."""
  return [line.split()[1] for line in lines if line.startswith(word)]


def rows(folder: Path) -> list[dict[str, str]]:
  with open(folder / FOLDER / "sweep.csv", newline="") as file:
    return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_of_six_killed_after_three_runs_exactly_three_more(tmp_path):
  process = start(tmp_path, *SIX)
  lines: list[str] = []
  while not titles(lines, "started")[3:]:
    lines.append(process.stdout.readline())
  kill_all(process)
  assert titles(lines, "finished") == ["1/6", "2/6", "3/6"]

  out, err = finish(start(tmp_path, *SIX))
  assert out[0] == f"sweep     6 points of gpt2.Nano in {FOLDER}, 3 finished already"
  assert titles(out, "started") == titles(out, "finished") == ["4/6", "5/6", "6/6"]
  (header,) = (number for number, line in enumerate(out) if line.startswith("point "))
  assert len(out[header + 1 : -1]) == 6 and out[-1] == f"table     {FOLDER}/sweep.csv"
  assert err == []

  table = rows(tmp_path)
  losses = [float(row["eval/validation/loss"]) for row in table]
  assert losses == sorted(losses) and len(set(losses)) == 6
  assert {row["status"] for row in table} == {"finished"}
  starts = [len(read_starts(tmp_path / FOLDER / row["point"])) for row in table]
  assert sorted(starts)[:5] == [1] * 5 and max(starts) <= 2  # the one that was killed

  # A point is a run like any other.
  point = FOLDER / table[0]["point"]
  evaluated = run(["eval", f"--workdir={point}"], tmp_path)
  assert f"eval/validation/loss={losses[0]:.6f}" in evaluated
  run([f"--config={point}/config.json", "--workdir=again"], tmp_path)
  again = (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()[-1]
  assert json.loads(again)["eval/validation/loss"] == losses[0]
  (who,) = [
    c["who"] for c in read_starts(tmp_path / point)[0]["overrides"] if c["path"] == "seed"
  ]
  assert who == f"--set=seed={table[0]['seed']}"


@pytest.mark.slow
def test_points_save_and_stop_when_the_sweep_is_killed_or_told_to_stop(tmp_path):
  endless = [argument.replace("num_steps=2", "num_steps=100000") for argument in SWEEP]
  command = [*endless, "--set=log_every=1", "--sweep=seed=1"]
  process = start(tmp_path, *command)
  when(lambda: list(tmp_path.glob("sweeps/*/*/metrics.jsonl")))
  (file,) = tmp_path.glob("sweeps/*/*/metrics.jsonl")
  when(lambda: file.stat().st_size)
  process.kill()
  process.communicate()
  when(lambda: not is_held(file.parent))  # it has noticed, and saved
  (saved,) = steps(str(file.parent))

  process = start(tmp_path, *command)
  when(lambda: len(read_starts(file.parent)) == 2)
  written = file.stat().st_size
  when(lambda: file.stat().st_size > written)
  process.terminate()
  out, err = finish(process, want=143)
  assert titles(out, "stopped") == ["1/1"]
  assert err == ["runner: 1 of 1 point not finished; the same command goes on"]
  assert steps(str(file.parent))[-1] > saved
  assert rows(tmp_path)[0]["status"] == "stopped"


@pytest.mark.slow
def test_a_value_that_only_fails_when_data_are_opened_fails_its_point_alone(tmp_path):
  command = [*SWEEP, "--sweep=train_data.split=nonsense,validation", "--parallel=2"]
  out, err = finish(start(tmp_path, *command), want=1)
  assert titles(out, "failed") == ["1/2"] and titles(out, "finished") == ["2/2"]
  assert "nonsense" in next(line for line in out if line.startswith("failed"))
  assert err[0].startswith("runner: 1/2 ") and err[0].endswith("/output.log")


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      ["--sweep=model.num_layers=1,x"],
      "--sweep=model.num_layers=x: expected int (at least 1), got x",
    ),
    (["--sweep=seed=1", "--set=seed=2"], "seed is swept by --sweep=seed=1 and set by"),
    ([], "sweep what? Name values with --sweep=PATH=V1,V2"),
    (["--sweep=seed=1", "--parallel=0"], "--parallel=0: expected at least 1"),
    (["--sweep=seed=1", "--set=writers=[]"], "add --set=writers+=@JsonLines"),
    (["--sweep=seed=1", "--workdir=a_run"], "a_run is the workdir of a run"),
  ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
  arguments, message, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a_run").mkdir()
  (tmp_path / "a_run" / "config.json").touch()
  assert main(["runner", "sweep", "--exp=gpt2.Nano", *arguments]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("runner: error: ") and message in line
  assert [file.name for file in tmp_path.rglob("*")] == ["a_run", "config.json"]
