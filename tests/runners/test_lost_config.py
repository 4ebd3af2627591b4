"""A run without its config.json goes on as the run that its checkpoints say it is, or not."""

import shutil

import pytest

from layers.errors import UserError
from runners.checkpoints.listing import steps
from runners.configs.files import load
from runners.training import train
from tests.runners.damage import as_saved_before_inventories
from tests.runners.toy_run import toy_config


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "run"
  train(toy_config(num_steps=2), "toy.Run", str(folder))
  return folder


@pytest.fixture
def run(begun, tmp_path, capsys):
  """A run that was trained for two steps with seed 0, without its config.json."""
  folder = shutil.copytree(begun, tmp_path / "run")
  (folder / "config.json").unlink()
  capsys.readouterr()
  return folder


def _train(folder, *accepted, **fields):
  return train(toy_config(**fields), "toy.Run", str(folder), accept_changes=accepted)


def test_with_another_config_it_is_refused_with_every_field_that_differs(run):
  with pytest.raises(UserError) as raised:
    _train(run, num_steps=4, seed=7)
  message = str(raised.value)
  assert "seed: 0 there, 7 here" in message and "num_steps: 2 there, 4 here" in message
  assert "--accept_change=num_steps --accept_change=seed" in message
  assert not (run / "config.json").exists() and steps(str(run)) == [2]


def test_with_the_same_config_it_goes_on_and_the_file_is_written_again(run, capsys):
  assert _train(run, num_steps=2) == 0
  assert "config.json is missing: the config is compared with what" in capsys.readouterr().err
  assert load(run).config == toy_config(num_steps=2)


def test_a_change_that_was_accepted_stays_accepted(run):
  assert _train(run, "seed", "num_steps", num_steps=3, seed=7) == 0
  assert _train(run, num_steps=3, seed=7) == 0
  (run / "config.json").unlink()  # the checkpoint of step 3 says the seed that it had
  assert _train(run, num_steps=3, seed=7) == 0
  (run / "config.json").unlink()
  with pytest.raises(UserError, match="seed: 7 there, 0 here"):
    _train(run, num_steps=3)


def test_where_it_is_computed_may_change_unasked(run):
  assert _train(run, num_steps=2, microbatch_size=4) == 0


def test_the_newest_checkpoint_that_can_be_read_says_it(run):
  (run / "checkpoints" / "5").mkdir()
  with pytest.raises(UserError, match="seed: 0 there, 7 here"):
    _train(run, num_steps=2, seed=7)


def test_one_of_an_older_version_says_nothing_and_that_is_said_once(run, capsys):
  folder = as_saved_before_inventories(run / "checkpoints" / "2")
  shutil.rmtree(folder / "origin")
  tell = folder / "_CHECKPOINT_METADATA"
  tell.write_text(tell.read_text().replace('"origin"', '"other"'))
  assert _train(run, num_steps=2, seed=7) == 0
  assert "of an older version, does not say its config" in capsys.readouterr().err
  assert _train(run, num_steps=2, seed=7) == 0
  assert "older version, does not say its config" not in capsys.readouterr().err


def test_without_any_checkpoint_a_run_begins(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  assert _train(tmp_path, num_steps=1, seed=7) == 0
