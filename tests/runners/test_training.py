"""A run refuses what would make it silently wrong, and leaves its workdir as it was."""

import re

import fiddle as fdl
import jax
import optax
import pytest

from layers.errors import UserError
from runners import training
from runners.callbacks import Callback, Run
from runners.checkpoints.listing import steps
from runners.checkpoints.retention import Checkpoints
from runners.configs.files import load
from runners.interchange.init_from import InitFrom
from runners.metrics.json_lines import JsonLines
from runners.training import train
from runners.workdir import read_starts
from tests.runners.toy_run import ToyText, toy_config


class FailsAtStepThree(Callback):
  """Stands for anything that goes wrong on the way."""

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    if run.step == 3:
      raise FloatingPointError("step 3")


@pytest.fixture
def run(tmp_path):
  """Trains a toy config in `name` under the test's folder."""

  def start(name="run", accept_changes=(), **fields):
    config = toy_config(**{"num_steps": 2} | fields)
    return train(config, "toy.Run", str(tmp_path / name), accept_changes=accept_changes)

  return start


def test_evaluation_data_of_another_vocabulary_are_refused(run, tmp_path):
  other = {"validation": fdl.Config(ToyText, split="validation", letters="xyz")}
  with pytest.raises(UserError, match=r"eval_data\['validation'\].*different vocabularies"):
    run(eval_data=other)
  assert not (tmp_path / "run").exists()


def test_a_text_that_changed_under_a_run_is_refused_unless_accepted(run, tmp_path):
  assert run() == 0
  longer = fdl.Config(ToyText, num_documents=50)
  accepted = ["num_steps", "train_data.num_documents"]
  with pytest.raises(
    UserError, match="training data .* have changed.*accept_change=train_data"
  ):
    run(num_steps=4, train_data=longer, accept_changes=accepted)
  assert load(tmp_path / "run").config.num_steps == 2
  assert run(num_steps=4, train_data=longer, accept_changes=[*accepted, "train_data"]) == 0


def test_a_run_that_cannot_go_on_says_so_before_its_data_are_opened(run, monkeypatch):
  assert run() == 0

  def opened(*_, **__):
    raise AssertionError("a token store may take hours to build")

  monkeypatch.setattr(ToyText, "open", opened)
  with pytest.raises(UserError, match="started with another config"):
    run(seed=5)


def test_an_accepted_change_that_fails_leaves_the_recorded_config_alone(run, tmp_path):
  assert run() == 0
  with pytest.raises(UserError, match="do not fit this model"):
    run(dropout_rate=0.0, model=_deeper(), accept_changes=["model.num_layers"])
  assert load(tmp_path / "run").config == toy_config(num_steps=2)
  assert run() == 0


def test_init_from_takes_the_parameters_and_refuses_those_of_another_model(run, tmp_path):
  assert run("first") == 0
  assert run("second", init_from=str(tmp_path / "first")) == 0
  with pytest.raises(UserError, match="do not fit this model: .*missing there"):
    run("third", init_from=str(tmp_path / "first"), model=_deeper())


def test_a_run_that_goes_on_needs_the_run_it_began_from_no_more(run, tmp_path):
  source = tmp_path / "first"
  assert run("first") == 0
  assert run("second", init_from=str(source)) == 0
  source.rename(tmp_path / "moved")
  assert run("second", init_from=str(source)) == 0
  with pytest.raises(UserError, match="no such run"):
    run("third", init_from=str(source))


@pytest.mark.parametrize("log_every", [1, 2, 100])
def test_a_state_that_is_not_finite_is_never_saved(run, tmp_path, log_every):
  diverging = fdl.Config(optax.sgd, learning_rate=1e30)
  every = fdl.Config(Checkpoints, every=2, keep_latest=1)
  with pytest.raises(FloatingPointError, match="not finite|nan|inf"):
    run(num_steps=8, optimizer=diverging, checkpoints=every, log_every=log_every)
  assert all(step < 4 for step in steps(str(tmp_path / "run")))


def test_several_processes_are_refused_before_anything_is_written(run, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(UserError, match="a run is one process, and this is one of 2"):
    run()
  assert not (tmp_path / "run").exists()


def test_a_dropout_rate_that_is_no_probability_is_refused_before_the_workdir(run, tmp_path):
  with pytest.raises(UserError, match="dropout_rate=2.0 must be at least 0 and less than 1"):
    run(dropout_rate=2.0)
  assert not (tmp_path / "run").exists()


def test_any_optax_optimizer_trains_also_one_with_factored_moments(run):
  adafactor = fdl.Config(
    optax.adafactor, learning_rate=0.01, min_dim_size_to_factor=4, factored=True
  )
  assert run(optimizer=adafactor) == 0


def test_run_json_says_which_starts_came_to_their_end(run, tmp_path):
  assert run() == 0
  assert run(num_steps=4, accept_changes=["num_steps"]) == 0
  ends = [start["ended"] for start in read_starts(tmp_path / "run")]
  assert [(end["step"], end["finished"]) for end in ends] == [(2, True), (4, True)]


def test_a_start_that_failed_has_no_end_in_run_json(run, tmp_path):
  with pytest.raises(FloatingPointError):
    run(num_steps=8, callbacks=[fdl.Config(FailsAtStepThree)])
  (failed,) = read_starts(tmp_path / "run")
  assert "ended" not in failed and failed["num_steps"] == 8


def test_the_last_lines_say_what_was_trained_now_and_what_can_be_done(run, tmp_path, capsys):
  def last(**fields):
    assert run(**fields) == 0
    return capsys.readouterr().out.splitlines()[-2:]

  workdir = tmp_path / "run"
  done, next_ = last()
  assert re.fullmatch(rf"done: 2 steps; [\d.]+ s in all; the run is at {workdir}", done)
  assert next_.startswith(f"next: runner generate --workdir={workdir} --prompt=")
  assert next_.endswith(f"runner eval --workdir={workdir}")
  done, _ = last()
  assert done.startswith("done: 2 steps, all of them before: nothing was trained; ")
  done, _ = last(num_steps=5, accept_changes=["num_steps"])
  assert done.startswith("done: 5 steps, 3 of them now; ")


def test_rows_of_metrics_that_are_gone_are_said(run, tmp_path, notes):
  rows = {"writers": [fdl.Config(JsonLines)], "log_every": 1}
  file, more = tmp_path / "run" / "metrics.jsonl", {"accept_changes": ["num_steps"]}
  run(**rows, num_steps=4)
  run(**rows, num_steps=6, **more)
  assert not [text for text in notes if "metrics.jsonl" in text]
  file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
  run(**rows, num_steps=8, **more)
  file.unlink()
  run(**rows, num_steps=10, **more)
  assert [text[:63] for text in notes if "metrics.jsonl" in text] == [
    "metrics.jsonl has 4 of the 6 rows that were written up to step ",
    "metrics.jsonl has 0 of the 8 rows that were written up to step ",
  ]


def test_a_run_that_takes_over_another_misses_none_of_its_rows(run, tmp_path, notes):
  rows = {"writers": [fdl.Config(JsonLines)], "log_every": 1}
  run("first", **rows)
  source = fdl.Config(InitFrom, path=str(tmp_path / "first"), everything=True)
  run("second", **rows, init_from=source, num_steps=4)
  run("second", **rows, init_from=source, num_steps=4)
  assert not [text for text in notes if "metrics.jsonl" in text]


def test_a_second_signal_says_which_step_is_saved(run, tmp_path, monkeypatch, capsys):
  run()
  monkeypatch.setattr(training, "leave", lambda number: None)
  for workdir, saved in ((tmp_path / "run", "step 2 is saved"), (tmp_path, "no step is saved")):
    state = Run(str(workdir), num_steps=9, step=7)
    training._interruption(state)._insist(2)
    said = capsys.readouterr().err
    assert said.startswith("runner: left at once at step 7, by a second signal: ")
    assert saved in said and said.count("\n") == 1


def _deeper():
  model = toy_config().model
  model.num_layers += 1
  return model
