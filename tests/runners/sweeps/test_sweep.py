"""A sweep does what is left to do: finished points are kept, and a bad one fails alone."""

import os
import signal
import sys
import threading
import time

import fiddle as fdl
import pytest

from layers.errors import UserError
from runners.configs.files import load, save
from runners.devices.meshes import MeshShape
from runners.processes.folder_lock import hold
from runners.sweeps.sweep import SweepPoint, run_sweep
from runners.sweeps.table import read_table
from runners.workdir import Workdir
from tests.runners.toy_run import toy_config

LOSS = "eval/validation/loss"

# Stands for a run: finishes with the loss that it is given, like a run leaves it.
FINISHES = """
import json, sys
from pathlib import Path
folder, loss = Path(sys.argv[1]), float(sys.argv[2])
assert (folder / "config.json").exists()
(folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "eval/validation/loss": loss}))
end = {"step": 4, "finished": True, "seconds": 1.0}
(folder / "run.json").write_text(json.dumps({"starts": [{"ended": end}]}))
"""
FAILS = "print('on the way'); raise FloatingPointError('no number')"


@pytest.fixture
def sweep(tmp_path, capsys):
  """Sweeps the seed: {seed: loss, or the code that runs instead}; (exit code, out, err)."""

  def run(points: dict, parallel: int = 1, mode: str = "min"):
    code = run_sweep(
      [point(seed, run) for seed, run in points.items()],
      exp="toy.Run",
      folder=tmp_path,
      parallel=parallel,
      metric=LOSS,
      mode=mode,
    )
    return code, *(text.splitlines() for text in capsys.readouterr())

  def point(seed: int, run) -> SweepPoint:
    name = f"point{seed}"
    program = [sys.executable, "-c", run if isinstance(run, str) else FINISHES]
    command = [*program, str(tmp_path / name), str(run)]
    return SweepPoint(name, {"seed": str(seed)}, toy_config(seed=seed), command)

  return run


def test_every_point_runs_in_a_workdir_of_its_own_and_the_best_is_on_top(sweep, tmp_path):
  code, out, err = sweep({1: 3.0, 2: 1.0, 3: 2.0}, parallel=2)
  assert code == 0 and err == []
  assert [line.split()[0] for line in out if line.startswith("point")][1:] == [
    *("point2", "point3", "point1")
  ]
  assert [load(tmp_path / f"point{seed}").config.seed for seed in (1, 2, 3)] == [1, 2, 3]
  rows = [line.split(",") for line in (tmp_path / "sweep.csv").read_text().splitlines()]
  assert rows[0] == ["point", "status", "seed", "steps", "seconds", "train/loss", LOSS]
  assert rows[1] == ["point2", "finished", "2", "4", "1.0", "", "1.0"]
  assert "finished  2/3 point2  seed=2  eval/validation/loss 1.0000, 1.0 s" in out


def test_the_largest_is_on_top_where_that_is_best(sweep, tmp_path):
  sweep({1: 3.0, 2: 1.0, 3: 2.0}, mode="max")
  assert [row.point for row in read_table(tmp_path)] == ["point1", "point3", "point2"]


def test_a_bad_point_fails_alone_is_named_and_is_tried_again(sweep, tmp_path):
  dies = "import os; os.kill(os.getpid(), 9)"
  code, out, err = sweep({1: FAILS, 2: dies, 3: 2.0})
  assert code == 1
  assert "failed    1/3 point1  seed=1  FloatingPointError: no number" in out
  assert "failed    2/3 point2  seed=2  killed by signal 9" in out
  assert [row.status for row in read_table(tmp_path)] == ["finished", "failed", "failed"]
  assert err[0] == f"runner: 1/3 point1  seed=1 failed; see {tmp_path}/point1/output.log"
  assert err[2].startswith("runner: 2 of 3 points not finished; the same command goes on")
  code, out, err = sweep({1: 1.0, 2: 1.5, 3: FAILS})
  assert (code, err) == (0, []) and out[0].endswith(", 1 finished already")
  assert [line.split()[2] for line in out if line.startswith("started")] == ["point1", "point2"]


def test_a_sweep_that_is_done_runs_nothing_and_prints_its_table(sweep):
  sweep({1: 3.0, 2: 1.0})
  code, out, _ = sweep({1: FAILS, 2: FAILS})
  assert code == 0 and not [line for line in out if line.startswith("started")]
  assert sum(line.startswith("point") for line in out) == 3


def test_points_of_earlier_sweeps_keep_their_rows_and_gain_the_paths_swept_since(
  sweep, tmp_path
):
  sweep({1: 3.0, 2: FAILS})
  code, out, _ = sweep({5: 1.0})
  assert code == 0 and sum(line.startswith("point") for line in out) == 4
  config = toy_config(seed=7, num_steps=9)
  wider = SweepPoint("wider", {"num_steps": "9"}, config, [sys.executable, "-c", FAILS])
  assert run_sweep([wider], exp="toy.Run", folder=tmp_path, parallel=1, metric=LOSS, mode="min")
  assert {row.point: (row.status, row.values) for row in read_table(tmp_path)} == {
    "point1": ("finished", {"seed": "1", "num_steps": "4"}),
    "point2": ("failed", {"seed": "2", "num_steps": "4"}),
    "point5": ("finished", {"seed": "5", "num_steps": "4"}),
    "wider": ("failed", {"seed": "7", "num_steps": "9"}),
  }


def test_a_point_whose_folder_is_gone_loses_its_row(sweep, tmp_path):
  sweep({1: 3.0, 2: 1.0})
  (tmp_path / "point1").rename(tmp_path.parent / "moved")
  sweep({3: 1.0})
  assert {row.point for row in read_table(tmp_path)} == {"point2", "point3"}


def test_a_finished_point_that_went_on_with_another_config_fails_alone_and_has_no_result(
  sweep, tmp_path
):
  sweep({1: 3.0, 2: 1.0})
  save(toy_config(seed=2, num_steps=2000), "toy.Run", tmp_path / "point2")
  code, out, err = sweep({1: FAILS, 2: FAILS, 3: 4.0})
  assert code == 1 and out[0].endswith(", 1 finished already")
  conflict = (
    f"{tmp_path}/point2 was run with another config (num_steps: 2000 there, 4 here); "
    "move the folder away to run the point"
  )
  assert f"changed   2/3 point2  seed=2  {conflict}" in out
  assert [line.split()[2] for line in out if line.startswith("started")] == ["point3"]
  assert err[0] == f"runner: 2/3 point2  seed=2: {conflict}"
  assert err[1].startswith("runner: 1 of 3 points not finished")
  rows = (tmp_path / "sweep.csv").read_text().splitlines()
  assert rows[-1] == "point2,changed,2,0,0.0,,"
  sweep({3: FAILS})  # nor does it become one in the table of another sweep
  assert read_table(tmp_path)[-1].status == "changed"
  (tmp_path / "point2").rename(tmp_path / "moved")
  assert sweep({1: FAILS, 2: 2.0, 3: FAILS})[0] == 0


def test_a_point_that_went_on_with_another_config_is_not_started(sweep, tmp_path):
  sweep({1: FAILS})
  save(toy_config(seed=1, batch_size=4), "toy.Run", tmp_path / "point1")
  code, out, _ = sweep({1: 1.0})
  assert code == 1 and "(batch_size: 4 there, 8 here)" in out[1]
  assert not [line for line in out if line.startswith("started")]


def test_a_point_whose_config_cannot_be_read_fails_alone(sweep, tmp_path):
  sweep({1: 3.0, 2: 1.0})
  (tmp_path / "point1" / "config.json").write_text("{")
  code, _, err = sweep({1: FAILS, 2: FAILS})
  assert code == 1 and f"{tmp_path}/point1/config.json is not JSON" in err[0]
  assert "move the folder away to run the point" in err[0]
  assert [row.status for row in read_table(tmp_path)] == ["finished", "changed"]
  config = toy_config(num_steps=9)
  wider = SweepPoint("wider", {"num_steps": "9"}, config, [sys.executable, "-c", FAILS])
  run_sweep([wider], exp="toy.Run", folder=tmp_path, parallel=1, metric=LOSS, mode="min")
  assert read_table(tmp_path)[-1].values == {"seed": "1"}  # how many steps, nobody knows


@pytest.mark.parametrize(
  "field, value",
  [
    ("mesh", fdl.Config(MeshShape, data=1)),
    ("sharding", (("embed", "fsdp"),)),
    ("microbatch_size", 4),
  ],
)
def test_what_a_run_may_change_unasked_keeps_a_result_unless_it_is_swept(
  field, value, sweep, tmp_path
):
  sweep({1: 3.0})
  Workdir(tmp_path / "point1", toy_config(seed=1, **{field: value}), "toy.Run").close()
  save(toy_config(seed=1, **{field: value}), "toy.Run", tmp_path / "point1")
  assert sweep({1: FAILS})[0] == 0
  point = SweepPoint("point1", {field: "typed"}, toy_config(seed=1), ["false"])
  named = {"exp": "toy.Run", "folder": tmp_path, "parallel": 1, "metric": LOSS, "mode": "min"}
  assert run_sweep([point], **named) == 1
  assert [row.status for row in read_table(tmp_path)] == ["changed"]


def test_another_sweep_in_the_folder_is_refused_before_anything_is_written(sweep, tmp_path):
  lock = hold(tmp_path)
  with pytest.raises(UserError, match="another process is running in"):
    sweep({1: 3.0})
  lock.close()
  assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_a_signal_stops_the_sweep_which_says_how_to_go_on(sweep, tmp_path):
  waits = "import time; open(__import__('sys').argv[1] + '/ready', 'w'); time.sleep(60)"

  def interrupt():
    while not (tmp_path / "point1" / "ready").exists():
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=interrupt, daemon=True).start()
  code, out, err = sweep({1: waits, 2: 1.0})
  assert code == 143
  assert [line.split()[0] for line in out[1:3]] == ["started", "stopped"]
  assert {row.point: row.status for row in read_table(tmp_path)} == {
    "point1": "stopped",
    "point2": "waiting",
  }
  assert err == ["runner: 2 of 2 points not finished; the same command goes on"]


def test_a_metric_that_no_point_has_is_said_with_the_nearest(tmp_path, capsys):
  config, command = toy_config(), [sys.executable, "-c", FINISHES, str(tmp_path / "a"), "1.0"]
  point = SweepPoint("a", {"seed": "0"}, config, command)
  named = {"exp": "toy.Run", "folder": tmp_path, "parallel": 1, "mode": "min"}
  assert run_sweep([point], metric="eval/validation/los", **named) == 0
  warning = "no point has eval/validation/los: did you mean eval/validation/loss?"
  assert capsys.readouterr().err == f"runner: warning: {warning}\n"
