"""A run's checkpoints can be told, compared and looked into without the model's code."""

import shutil

import pytest

from layers.errors import UserError
from runners.checkpoints.listing import (
  best_step,
  find_checkpoints,
  find_step_folder,
  list_steps,
  show_step,
  steps,
)
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import CheckpointWriter
from tests.runners.toy_state import toy_state

LOSS = "eval/validation/loss"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run with checkpoints 2, 10 and 30, of which 30 was saved without evaluation."""
  folder = tmp_path_factory.mktemp("run")
  writer = CheckpointWriter(folder / "checkpoints", Checkpoints(keep_latest=9))
  for step, scalars in {2: {LOSS: 1.5}, 10: {LOSS: 2.5}, 30: {}}.items():
    writer.save(step, toy_state(step), {}, scalars)
    writer.wait()
  writer.close()
  (folder / "checkpoints" / "40.orbax-checkpoint-tmp").mkdir()
  return folder


def test_a_run_and_its_checkpoints_folder_name_the_same_steps_in_order(run):
  assert steps(str(run)) == steps(str(run / "checkpoints")) == [2, 10, 30]
  assert find_checkpoints(str(run)) == run / "checkpoints"


def test_a_step_is_found_by_number_by_its_folder_or_as_the_newest(run):
  folder = run / "checkpoints" / "10"
  assert find_step_folder(str(run), 10) == folder
  assert find_step_folder(str(folder)) == folder
  assert find_step_folder(str(run)) == run / "checkpoints" / "30"


@pytest.mark.parametrize("mode, step", [("min", 2), ("max", 10)])
def test_the_best_step_is_that_of_the_saved_metric(run, mode, step):
  assert best_step(str(run), LOSS, mode) == step


def test_a_metric_that_is_not_what_was_saved_makes_no_step_the_best(run, tmp_path, notes):
  changed = shutil.copytree(run, tmp_path / "run")
  file = changed / "checkpoints" / "10" / "metrics" / "metrics"
  file.write_text(file.read_text().replace("2.5", "0.5"))
  assert best_step(str(changed), LOSS, "min") == 2
  assert "Checkpoint 10 is damaged" in notes[0]


def test_a_damaged_checkpoint_says_so_when_it_is_shown(run, tmp_path):
  changed = shutil.copytree(run, tmp_path / "run")
  newest = changed / "checkpoints" / "30"
  shutil.rmtree(newest)
  newest.mkdir()
  for path in (changed, newest):
    with pytest.raises(UserError, match="folder is empty"):
      show_step(str(path))


def test_the_list_has_a_line_a_checkpoint_with_its_size_and_metric(run):
  text = list_steps(str(run)).splitlines()
  header, *lines = [line.split() for line in text]
  assert header == ["step", "size", LOSS]
  assert [line[0] for line in lines] == ["2", "10", "30"]
  assert all(float(line[1]) >= 0 and line[2] == "MB" for line in lines)
  assert [line[3:] for line in lines] == [["1.5000"], ["2.5000"], ["-"]]
  assert len({len(line) for line in text}) == 1  # the columns stand below their names


def test_a_checkpoint_shows_parameters_first_and_no_warning_that_is_of_no_use(run, caplog):
  names = [line.split()[0] for line in show_step(str(run)).splitlines()[1:-1]]
  ranks = [not name.startswith("params/") for name in names]
  assert ranks == sorted(ranks) and True in ranks and False in ranks
  assert not caplog.records


def test_a_checkpoint_shows_names_shapes_dtypes_and_the_number_of_parameters(run):
  lines = show_step(str(run)).splitlines()
  rows = {words[0]: words[1:] for words in map(str.split, lines)}
  assert rows["params/kernel"] == ["8x2", "float32"]
  assert rows["params/bias"] == ["8", "bfloat16"]
  assert rows["step"] == ["scalar", "int32"]
  assert lines[0] == str(run / "checkpoints" / "30")
  assert lines[-1] == "24 parameters"
  assert any(name.startswith("opt_state/") and name.endswith("/nu/kernel") for name in rows)


def test_what_is_not_there_is_said(run, tmp_path):
  with pytest.raises(UserError, match="no such run or checkpoint folder: .*/nowhere"):
    steps(str(tmp_path / "nowhere"))
  with pytest.raises(UserError, match="holds no checkpoint"):
    find_step_folder(str(tmp_path))
  with pytest.raises(UserError, match=r"no checkpoint of step 7; it has \[2, 10, 30\]"):
    find_step_folder(str(run), 7)
  with pytest.raises(UserError, match="saved with eval/other/loss; save where you evaluate"):
    best_step(str(run), "eval/other/loss", "min")
  assert list_steps(str(tmp_path)) == f"no checkpoints under {tmp_path}"
