"""What an older revision wrote still loads: runs go on, sweeps are finished, configs are read.

tests/old_runs/ is as that revision left it (its README.md) and is never written anew: whatever
has moved since, names in these files lead to the same objects. Steps are computed anew on
this machine, whose rounding may differ: they agree with the old ones to 1e-5, and bitwise
among each other.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.command_line import main

OLD = Path(__file__).parent.parent / "old_runs"
FINISHED, WAITING = "b71d5cb596", "9978136ad9"  # points of the sweep
CONFIGS = sorted(file.stem for file in (OLD / "configs").glob("*.json"))


def argv(workdir: str) -> list[str]:
  """The command that the run was begun with."""
  return json.loads((OLD / workdir / "run.json").read_text())["starts"][0]["argv"][1:]


def runner(*arguments: str, want: int = 0) -> str:
  """What the command prints, its notes included."""
  said = io.StringIO()
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    code = main(["runner", *arguments])
  assert code == want, said.getvalue()
  return said.getvalue()


@pytest.fixture
def old(tmp_path, monkeypatch):
  """A copy of the old files, and the folder to start from."""
  monkeypatch.chdir(shutil.copytree(OLD, tmp_path / "old"))
  return tmp_path / "old"


def rows(file: Path) -> list[dict[str, float]]:
  """What metrics.jsonl says, but for the clock."""
  parsed = map(json.loads, file.read_text().splitlines())
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in parsed]


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
  """The state as Orbax finds it, without this program's help."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore((checkpoint / "state").absolute())
  return {".".join(path): np.asarray(x) for path, x in ocp.tree.to_flat_dict(tree).items()}


def assert_close(got: list[dict[str, float]], want: list[dict[str, float]]) -> None:
  assert [row.keys() for row in got] == [row.keys() for row in want]
  for row, other in zip(got, want, strict=True):
    assert row == pytest.approx(other, rel=1e-5)


def nothing() -> None:
  pass


def lose_the_config() -> None:
  """What the run was begun with is then compared with what its checkpoint notes."""
  Path("workdir/config.json").unlink()


def rewrite_the_config() -> None:
  """As this revision writes it."""
  text = runner("show", "--config=workdir/config.json", "--format=json")
  Path("workdir/config.json").write_text(text)


# How the run is told to go on: what comes before, and the command.
WAYS = {
  "the_same_command": (nothing, argv("workdir")),
  "its_config_json": (nothing, ["--config=workdir/config.json", "--workdir=workdir"]),
  "config_json_rewritten": (rewrite_the_config, argv("workdir")),
  "config_json_lost": (lose_the_config, argv("workdir")),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_goes_on_from_its_checkpoint_and_logs_no_step_twice(old, way):
  prepare, command = WAYS[way]
  prepare()
  assert re.search(r"^training +step 4 of 8", runner(*command), re.M)
  got = rows(old / "workdir" / "metrics.jsonl")
  assert got[:4] == rows(OLD / "workdir" / "metrics.jsonl")[:4]
  assert_close(got, rows(OLD / "unbroken.jsonl"))
  starts = json.loads((old / "workdir" / "run.json").read_text())["starts"]
  assert [start.get("ended", {}).get("finished") for start in starts] == [None, True]
  assert re.fullmatch(r"step 8 +intact: 36 arrays", runner("ckpt", "verify", "workdir").strip())


@pytest.mark.slow
def test_however_it_is_told_to_go_on_every_step_is_bitwise_the_same(old):
  shutil.copytree("workdir", "other")
  runner(*argv("workdir"))
  rewrite_the_config()
  shutil.copy("workdir/config.json", "other/config.json")
  runner("--config=other/config.json", "--workdir=other")
  left, right = old / "workdir", old / "other"
  assert rows(left / "metrics.jsonl") == rows(right / "metrics.jsonl")
  mine, theirs = (arrays(folder / "checkpoints" / "8") for folder in (left, right))
  assert mine.keys() == theirs.keys()
  for name, value in mine.items():
    np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.slow
def test_its_config_json_repeats_it_from_the_first_step(old):
  runner("--config=workdir/config.json", "--workdir=again")
  assert_close(rows(old / "again" / "metrics.jsonl"), rows(OLD / "unbroken.jsonl"))


def test_its_checkpoint_is_intact_and_holds_the_arrays_that_were_saved(old):
  assert runner("ckpt", "verify", "workdir").split() == "step 4 intact: 36 arrays".split()
  found = {
    name: f"{x.dtype}{list(x.shape)} {hashlib.sha256(x.tobytes()).hexdigest()}"
    for name, x in arrays(old / "workdir" / "checkpoints" / "4").items()
  }
  assert found == json.loads((OLD / "arrays.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("step", ["4", "latest", "best"])
def test_its_checkpoint_is_evaluated_to_the_loss_that_was_logged(old, step):
  said = runner("eval", "--workdir=workdir", f"--step={step}")
  (loss,) = re.findall(r"eval/validation/loss=(\S+)", said)
  want = rows(OLD / "workdir" / "metrics.jsonl")[3]["eval/validation/loss"]
  assert float(loss) == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
def test_a_sweep_that_was_stopped_runs_what_is_left_and_nothing_else(old):
  first, name = argv(f"sweep/{FINISHED}"), f"--workdir=sweep/{FINISHED}"
  common = [a for a in first if a not in ("train", "--set=seed=1", name)]
  before = contents(old / "sweep" / FINISHED)
  said = runner("sweep", *common, "--sweep=seed=1,2", "--workdir=sweep")
  assert "2 points of gpt2.ShakespeareCharCpu in sweep, 1 finished already" in said
  assert re.findall(r"^started +(\S+ \S+)", said, re.M) == [f"2/2 {WAITING}"]
  assert contents(old / "sweep" / FINISHED) == before
  assert sorted(p.name for p in (old / "sweep").iterdir() if p.is_dir()) == [WAITING, FINISHED]
  table, was = points(old), points(OLD)
  assert table[FINISHED] == was[FINISHED]
  assert (was[WAITING]["status"], table[WAITING]["status"]) == ("waiting", "finished")
  assert table[WAITING]["steps"] == "2" and float(table[WAITING]["eval/validation/loss"])


def contents(folder: Path) -> Mapping[str, bytes]:
  files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
  return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def points(folder: Path) -> dict[str, dict[str, str]]:
  with open(folder / "sweep" / "sweep.csv", newline="") as file:
    return {row["point"]: row for row in csv.DictReader(file)}


def unplaced(text: str) -> str:
  """Without the modules that stand before our own names: they may have moved."""
  return re.sub(r"@(layers|runners|tasks)\.[\w.]+:", "@", text)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_json_shows_the_values_that_it_showed(old, name):
  shown = runner("show", f"--config=configs/{name}.json", "--format=flat")
  assert unplaced(shown) == unplaced(Path(f"configs/{name}.txt").read_text())


@pytest.mark.parametrize("workdir", ["workdir", f"sweep/{FINISHED}", f"sweep/{WAITING}"])
def test_the_config_json_of_a_run_shows_the_values_of_its_config_txt(old, workdir):
  shown = runner("show", f"--config={workdir}/config.json", "--format=flat")
  assert unplaced(shown) == unplaced(Path(f"{workdir}/config.txt").read_text())


@pytest.mark.parametrize("workdir", ["workdir", "configs/million.json"])
def test_an_old_config_does_not_differ_from_itself_as_it_is_written_now(old, workdir):
  file = workdir if workdir.endswith(".json") else f"{workdir}/config.json"
  Path("now.json").write_text(runner("show", f"--config={file}", "--format=json"))
  assert runner("diff", file, "now.json").splitlines()[1:] == []
