"""gin reaches the data that take it as a field of the config, and nothing else."""

import fiddle as fdl
import pytest

from experiments.command_line import main
from experiments.overrides import Override, OverrideErrors, apply_overrides
from runners.trainer import Trainer
from tasks.jsonl import Jsonl
from tasks.mixture import Mixture
from tasks.registered_task import RegisteredTask


def trainer(train_data, **eval_data):
  return fdl.Config(Trainer, train_data=train_data, eval_data=eval_data)


def task(**fields):
  return fdl.Config(RegisteredTask, task="t", module="m", **fields)


def apply(config, *arguments):
  overrides = [Override(*argument.removeprefix("--").split("=", 1)) for argument in arguments]
  return apply_overrides(config, overrides, complete=False).config


def test_bindings_come_after_files_and_both_after_what_chooses_the_data(tmp_path):
  (tmp_path / "a.gin").write_text("# a file\nf.x = 1\n")
  config = apply(
    trainer(fdl.Config(Jsonl)),
    "--gin_bindings=f.x = 2",
    f"--gin_file={tmp_path}/a.gin",
    "--set=train_data=@RegisteredTask(task='t', module='m')",
    "--gin_bindings=f.y = @g",
  )
  assert config.train_data.gin == ("# a file\nf.x = 1", "f.x = 2", "f.y = @g")


def test_all_data_that_take_gin_get_it_once():
  mixture = fdl.Config(Mixture, sources={"a": task(gin=("f.x = 1",)), "b": fdl.Config(Jsonl)})
  config = apply(
    trainer(mixture, other=task(), own=fdl.Config(Jsonl)),
    "--gin_bindings=f.x = 2",
    "--gin_bindings=f.x = 2",
  )
  assert config.train_data.sources["a"].gin == ("f.x = 1", "f.x = 2")
  assert config.eval_data["other"].gin == ("f.x = 2",)
  assert mixture.sources["a"].gin == ("f.x = 1",)  # the config that was given is untouched


def test_the_last_binding_wins_also_where_an_earlier_one_was_the_same():
  config = apply(trainer(task(gin=("f.x = 1", "f.x = 2"))), "--gin_bindings=f.x = 1")
  assert config.train_data.gin == ("f.x = 2", "f.x = 1")
  again = ("--gin_bindings=f.x = 2", "--gin_bindings=f.x = 1")
  assert apply(config, *again).train_data.gin == ("f.x = 2", "f.x = 1")


def test_evaluation_data_that_take_it_from_the_training_data_still_do():
  config = trainer(task(gin=("f.x = 1",)), like=task(), own=task(gin=("f.x = 3",)))
  config = apply(config, "--gin_bindings=f.x = 2")
  assert "gin" not in config.eval_data["like"].__arguments__
  assert config.eval_data["own"].gin == ("f.x = 3", "f.x = 2")


def test_other_bindings_are_another_store(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / "m_of_gin_flags.py").write_text("")
  tasks = [
    RegisteredTask(task="t", module="m_of_gin_flags", gin=gin)
    for gin in ((), ("f.x = 1",), ("f.x = 2",), ("f.x = 2", "f.y = 1"))
  ]
  assert len({str(task.identity()) for task in tasks}) == 4


def test_files_are_read_with_what_they_include(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.gin").write_text("f.x = (1,\n  2)\ninclude 'b.gin'\nf.z = 3\n")
  (tmp_path / "b.gin").write_text("f.y = 2\n")
  config = apply(trainer(task()), "--gin_file=a.gin")
  assert config.train_data.gin == ("f.x = (1,\n  2)\nf.y = 2\nf.z = 3",)


@pytest.mark.parametrize(
  "argument, message",
  [
    ("--gin_file=none.gin", "cannot read none.gin: No such file"),
    ("--gin_file=wrong.gin", "wrong.gin:2: not in gin's language: "),
    ("--gin_file=circle.gin", "circle.gin includes itself"),
    ("--gin_bindings=f.x", "not in gin's language: "),
    ("--gin_bindings=f.x = y", "not in gin's language: "),
  ],
)
def test_what_is_no_gin_is_one_line(tmp_path, monkeypatch, argument, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "wrong.gin").write_text("f.x = 1\nf.y =\n")
  (tmp_path / "circle.gin").write_text("include 'circle.gin'\n")
  with pytest.raises(OverrideErrors) as raised:
    apply(trainer(task()), argument)
  (error,) = raised.value.errors
  assert error.startswith(f"{argument}: ") and message in error and "\n" not in error


def test_gin_without_anything_that_takes_it_is_the_users_error(capsys):
  assert main(["runner", "show", "--exp=gpt2.Nano", "--gin_bindings=f.x=1"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "--gin_bindings=f.x=1: nothing in train_data or eval_data takes gin" in line
