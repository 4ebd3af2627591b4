"""A default that changed since is refused by its path or accepted; a replay is as it was."""

import json
import shutil
from pathlib import Path

import fiddle as fdl
import pytest

from experiments.command_line import main
from experiments.override_arguments import Override
from experiments.resolution import resolve
from experiments.sweep_plan import config_name, plan_sweep
from layers.errors import UserError
from runners import optimizers
from runners.callbacks import EarlyStopping
from runners.checkpoints.origin import recorded_config
from runners.checkpoints.retention import Checkpoints
from runners.configs.files import load
from runners.devices.collective_budget import Allowance
from runners.metrics.json_lines import JsonLines
from runners.sweeps import sweep as sweeps
from runners.training import train
from runners.workdir import Workdir
from tests.redefined import redefined
from tests.runners.test_old_runs import OLD, argv
from tests.runners.toy_run import ToyText, toy_config

REFUSED = "optimizer.b2: 0.95 there, 0.5 here"


def toy(**fields) -> fdl.Config:
  fields = {"optimizer": fdl.Config(optimizers.adamw, learning_rate=0.1)} | fields
  return toy_config(**fields)


def start(path: Path, config: fdl.Config, *accepted: str) -> Workdir:
  """What a run does with a workdir that it may use."""
  folder = Workdir(path, config, "toy.Run", accepted)
  folder.record({})
  folder.close()
  return folder


def without_section(path: Path) -> None:
  """config.json as older versions wrote it."""
  document = json.loads((path / "config.json").read_text())
  del document["defaults"]
  (path / "config.json").write_text(json.dumps(document))


def replay(path: Path) -> fdl.Config:
  return resolve(None, [Override("config", str(path / "config.json"))]).config


def nothing(path: Path) -> None:
  pass


@pytest.mark.parametrize("written", [nothing, without_section], ids=["now", "before"])
def test_a_run_is_refused_by_the_path_of_the_default_or_goes_on_where_it_is_accepted(
  written, tmp_path, notes
):
  start(tmp_path, toy())
  written(tmp_path)
  with redefined(optimizers.adamw, b2=0.5):
    with pytest.raises(UserError) as error:
      start(tmp_path, toy())
    assert f"({REFUSED})" in str(error.value)
    assert "accept with --accept_change=optimizer.b2" in str(error.value)
    before = start(tmp_path, toy(), "optimizer.b2").before
    assert before is not None and before.optimizer.b2 == 0.95  # as the checkpoint was made
    assert notes == ["Accepted: optimizer.b2 was 0.95, is 0.5."]
    start(tmp_path, toy())  # which is what it is from then on
  assert recorded_config(tmp_path).fields()["optimizer.b2"] == "0.5"


@pytest.mark.parametrize("written", [nothing, without_section], ids=["now", "before"])
def test_a_replay_has_the_default_of_its_time_and_says_so_once(written, tmp_path, notes):
  start(tmp_path, toy())
  written(tmp_path)
  with redefined(optimizers.adamw, b2=0.5, eps=1.0):
    config = replay(tmp_path)
    assert (config.optimizer.b2, config.optimizer.eps) == (0.95, 1e-8)
    start(tmp_path, config)  # nor is it refused where it was
  told = "config.json has the defaults of its time: optimizer.b2 is 0.95 (0.5 now);"
  assert len(set(notes)) == 1 and told in notes[0]


def test_without_a_change_a_replay_sets_nothing_and_says_nothing(tmp_path, notes):
  start(tmp_path, toy())
  assert replay(tmp_path) == toy() and notes == []


def test_a_record_of_before_without_any_text_beside_it_has_the_defaults_of_now(tmp_path):
  start(tmp_path, toy())
  without_section(tmp_path)
  (tmp_path / "config.txt").unlink()
  with redefined(optimizers.adamw, b2=0.5):
    assert replay(tmp_path) == toy()


def test_a_config_txt_of_another_config_is_not_believed_and_that_is_said(tmp_path, notes):
  start(tmp_path, toy())
  start(tmp_path / "other", toy(num_steps=9))
  shutil.copy(tmp_path / "other" / "config.txt", tmp_path)
  without_section(tmp_path)
  with redefined(optimizers.adamw, b2=0.5):
    assert replay(tmp_path) == toy()
  assert "config.txt is of another config than " in notes[0]


def test_a_default_within_a_part_that_was_set_is_as_it_was(tmp_path):
  start(tmp_path, toy(checkpoints=fdl.Config(Checkpoints)))
  with redefined(Checkpoints, keep_latest=99):
    config = replay(tmp_path)
  assert config.checkpoints.keep_latest == Checkpoints().keep_latest


def test_evaluation_data_go_on_taking_over_what_they_took_over(tmp_path):
  eval_data = {"validation": fdl.Config(ToyText, split="validation")}
  start(tmp_path, toy(eval_data=eval_data))
  with redefined(ToyText, num_documents=7, split="other"):
    config = replay(tmp_path)
    assert config.train_data.num_documents == 40 and config.train_data.split == "train"
    assert "num_documents" not in config.eval_data["validation"].__arguments__
    with pytest.raises(UserError) as error:
      start(tmp_path, toy(eval_data=eval_data))
  assert "train_data.num_documents: 40 there, 7 here" in str(error.value)
  assert "eval_data" not in str(error.value)


def test_only_what_was_set_is_named_of_a_part_that_is_new(tmp_path):
  start(tmp_path, toy())
  with pytest.raises(UserError) as error:
    start(tmp_path, toy(callbacks=[fdl.Config(EarlyStopping)]))
  assert (
    "(callbacks[0]: absent there, @runners.callbacks:EarlyStopping() here; "
    "callbacks: () there, absent here)"
  ) in str(error.value)


def test_what_says_only_where_a_run_is_computed_may_change_its_default_too(tmp_path, notes):
  config = toy(microbatch_size=8)
  start(tmp_path, config)
  config.collective_budget = [fdl.Config(Allowance, kind="all-gather", axis="fsdp")]
  start(tmp_path, config)
  assert notes and all(note.startswith("collective_budget") for note in notes)


@pytest.mark.slow
def test_a_replay_repeats_every_loss_bitwise_whatever_the_defaults_became(tmp_path):
  losses = lambda folder: [
    json.loads(line)["train/loss"]
    for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
  ]
  logged = {"num_steps": 3, "log_every": 1, "writers": [fdl.Config(JsonLines)]}
  train(toy(**logged), "toy.Run", str(tmp_path / "run"))
  with redefined(optimizers.adamw, b2=0.5):
    train(replay(tmp_path / "run"), "toy.Run", str(tmp_path / "again"))
    train(toy(**logged), "toy.Run", str(tmp_path / "other"))
  assert len(losses("run")) == 3 and losses("again") == losses("run")
  assert losses("other") != losses("run")


def point(config: fdl.Config, **values: str) -> sweeps.SweepPoint:
  return sweeps.SweepPoint("point", values, config, [])


def test_a_point_of_a_sweep_whose_defaults_changed_is_told_by_the_path(tmp_path):
  start(tmp_path, toy())
  with redefined(optimizers.adamw, b2=0.5):
    said = sweeps._conflict(point(toy(), seed="0"), tmp_path)
  assert said.startswith(f"{tmp_path} was run with another config ({REFUSED}); ")
  assert sweeps._conflict(point(toy(), seed="0"), tmp_path) == ""


def test_a_point_may_be_computed_elsewhere_unless_that_is_swept(tmp_path):
  start(tmp_path, toy())
  budget = [fdl.Config(Allowance, kind="all-gather", axis="fsdp")]
  moved = toy(microbatch_size=4, collective_budget=budget)
  assert sweeps._conflict(point(moved, seed="0"), tmp_path) == ""
  said = sweeps._conflict(point(moved, microbatch_size="4"), tmp_path)
  assert "(microbatch_size: None there, 4 here)" in said


def test_the_points_of_a_sweep_from_a_stored_config_keep_their_names(tmp_path):
  start(tmp_path, toy())
  stored = [Override("config", str(tmp_path))]
  names = lambda values: [
    p.name for p in plan_sweep(None, stored, [f"optimizer.b2={values}"]).points
  ]
  before = names("0.95,0.9")
  with redefined(optimizers.adamw, b2=0.5):
    assert names("0.95,0.9") == before
    assert len({*names("0.95,0.9"), *names("0.5,0.6")}) == 4
    assert config_name(toy(), "toy.Run") == before[0]  # as the name of an experiment's point


@pytest.fixture
def old(tmp_path, monkeypatch):
  """A copy of what an older revision wrote, and the folder to start from."""
  monkeypatch.chdir(shutil.copytree(OLD, tmp_path / "old"))
  return tmp_path / "old"


def runner(capsys, *arguments: str) -> tuple[int, str, str]:
  capsys.readouterr()
  code = main(["runner", *arguments])
  return code, *capsys.readouterr()


def lose_the_text(workdir: Path) -> None:
  """What the checkpoint notes is then all that tells."""
  (workdir / "config.txt").unlink()


@pytest.mark.parametrize("told_by", [nothing, lose_the_text], ids=["config.txt", "checkpoint"])
def test_a_run_of_before_is_refused_and_replayed_by_the_text_beside_it(old, told_by, capsys):
  told_by(old / "workdir")
  with redefined(optimizers.sgdm, momentum=0.5):
    code, _, err = runner(capsys, *argv("workdir"))
    assert code == 2 and "optimizer.momentum: 0.9 there, 0.5 here" in err
    code, out, err = runner(capsys, "show", "--config=workdir/config.json")
  assert code == 0 and "optimizer.momentum = 0.9\n" in out
  assert err == (
    "note: workdir/config.json has the defaults of its time: "
    "optimizer.momentum is 0.9 (0.5 now).\n"
  )


def test_who_set_a_value_is_told_apart_from_what_was_the_default(old, capsys):
  config = "--config=workdir/config.json"
  momentum = lambda *more: runner(capsys, "why", "optimizer.momentum", config, *more)[1]
  assert momentum() == "optimizer.momentum = 0.9\n  set by the default of sgdm\n"
  with redefined(optimizers.sgdm, momentum=0.5):
    assert momentum() == (
      "optimizer.momentum = 0.9\n"
      "  set by workdir/config.json, whose default it was\n"
      "  before: 0.5, the default of sgdm\n"
    )
    assert momentum("--unset=optimizer.momentum").startswith("optimizer.momentum = 0.5\n")
    _, out, _ = runner(capsys, "diff", "workdir", "workdir/config.json")
    assert out == "no field differs\n"


def test_a_sweep_of_before_sees_the_default_that_changed(old, capsys):
  shutil.rmtree("sweep/9978136ad9")
  first = argv("sweep/b71d5cb596")
  common = [a for a in first if a != "train" and not a.startswith(("--set=seed", "--workdir"))]
  with redefined(fdl.get_callable(load("sweep/b71d5cb596").config.optimizer), eps=0.5):
    code, out, _ = runner(capsys, "sweep", *common, "--sweep=seed=1", "--workdir=sweep")
  assert code == 1 and "optimizer.eps: 1e-08 there, 0.5 here" in out


def test_a_default_that_is_gone_is_accepted_by_its_path(old, capsys):
  document = json.loads(Path("workdir/config.json").read_text())
  recorded = recorded_config("workdir").defaults
  assert recorded is not None
  document["defaults"] = {**recorded, "optimizer.centred": "False"}
  Path("workdir/config.json").write_text(json.dumps(document))
  code, _, err = runner(capsys, *argv("workdir"), "--set=seed=5")
  assert code == 2 and "optimizer.centred: False there, absent here" in err
  code, _, err = runner(
    capsys, *argv("workdir"), "--set=seed=5", "--accept_change=optimizer.centred"
  )
  assert code == 2 and "(seed: 0 there, 5 here)" in err
  code, _, err = runner(capsys, "show", "--config=workdir/config.json")
  assert code == 0 and "of fields that are no more: optimizer.centred, which was False." in err


def test_a_default_that_cannot_be_read_again_is_not_replaced_by_that_of_now(old, capsys):
  document = json.loads(Path("workdir/config.json").read_text())
  document["defaults"] = {"optimizer.momentum": "<array float32[2] 0123>"}
  Path("workdir/config.json").write_text(json.dumps(document))
  code, _, err = runner(capsys, "show", "--config=workdir/config.json")
  assert code == 2 and len(err.splitlines()) == 1
  assert "optimizer.momentum was <array float32[2] 0123> and is 0.9" in err
  assert "take their lines out of its 'defaults' for those of now" in err
