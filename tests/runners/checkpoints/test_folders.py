"""Whatever lies in checkpoints/: a step is a folder of its own number, and all else is left."""

import json
import shutil

import pytest

from layers.errors import UserError
from runners.checkpoints import writing as checkpoints
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.folders import REMOVED, saved_steps
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import DamagedCheckpoint, open_step, read_arrays
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.verification import verify
from runners.checkpoints.writing import CheckpointWriter
from runners.evaluate_run import chosen_steps
from runners.training import train
from tests.runners.damage import rename_to_another_number
from tests.runners.toy_run import toy_config
from tests.runners.toy_state import abstract, toy_state


def _save(folder, *numbers, keep_latest=9):
  writer = CheckpointWriter(folder, Checkpoints(keep_latest=keep_latest))
  for number in numbers:
    run = {"data": {"batch": number}, "callbacks": []}
    writer.save(number, toy_state(number), run, {})
  writer.wait()
  writer.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checkpoints")
  _save(folder, 1, 2)
  return folder


@pytest.fixture
def folder(two, tmp_path):
  return shutil.copytree(two, tmp_path / "checkpoints")


@pytest.fixture
def restored(folder, capsys):
  """() -> the step continued from, and the notes of it."""

  def restore():
    state, _ = restore_newest(folder, abstract(toy_state(0)))
    return int(state.step), capsys.readouterr().err.splitlines()

  return restore


def test_a_step_under_another_number_is_set_aside_with_a_line(folder, restored):
  rename_to_another_number(folder / "2")
  step, (line,) = restored()
  assert step == 1 and saved_steps(folder) == [1]
  assert "Checkpoint 999 is damaged: it is the checkpoint of step 2 under another" in line
  assert "continues from step 1" in line and (folder / "999.unreadable" / "state").is_dir()
  _save(folder, 2)
  assert restored() == (2, [])


def test_an_older_step_under_a_number_between_is_found_too(folder, restored):
  shutil.copytree(folder / "1", folder / "0")
  step, (line,) = restored()
  assert step == 2 and "Checkpoint 0 is damaged: it is the checkpoint of step 1" in line


def test_exchanged_steps_are_both_found_and_nothing_is_touched(folder, restored):
  (folder / "1").rename(folder / "t")
  (folder / "2").rename(folder / "1")
  (folder / "t").rename(folder / "2")
  with pytest.raises(UserError, match="none of the checkpoints .*step 2 under .*step 1 under"):
    restored()
  assert saved_steps(folder) == [1, 2]


def test_verify_says_of_a_step_that_it_is_another(folder):
  rename_to_another_number(folder / "2")
  (_, intact), (line, is_intact) = verify(str(folder))
  assert intact and not is_intact and "the checkpoint of step 2 under another number" in line


NAMES = ["²", "٩٩", "0009", "+3", " 3", "3_0", "3 (copy)", "3.bak", "backup", "-1", "removed.x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_a_name_that_no_step_has_is_left_alone(folder, restored, name):
  (folder / name).mkdir()
  (folder / name / "f").write_text("mine")
  assert restored() == (2, []) and find_step_folder(str(folder)).name == "2"
  _save(folder, 3, keep_latest=1)
  assert saved_steps(folder) == [3] and (folder / name / "f").read_text() == "mine"


def test_a_file_or_a_dead_link_with_a_number_is_left_alone(folder, restored):
  (folder / "100").write_text("mine")
  (folder / "200").symlink_to("/nowhere")
  assert restored() == (2, [])
  _save(folder, 3)
  assert saved_steps(folder) == [1, 2, 3] and (folder / "100").read_text() == "mine"


@pytest.mark.parametrize("number", ["100", str(10**30), "9" * 200])
def test_an_empty_folder_with_a_number_is_a_damaged_step(folder, restored, number):
  (folder / number).mkdir()
  step, (line,) = restored()
  assert step == 2 and "its folder is empty" in line


def test_what_a_killed_save_left_is_removed_and_no_link_is_followed(folder, restored, tmp_path):
  precious = tmp_path / "precious"
  precious.mkdir()
  (precious / "f").write_text("x")
  (folder / "3.orbax-checkpoint-tmp").symlink_to(precious)
  (folder / "4.orbax-checkpoint-tmp").write_text("a file")
  step, lines = restored()
  assert step == 2 and len(lines) == 2 and (precious / "f").read_text() == "x"
  assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_a_file_where_the_checkpoints_belong_is_refused_before_training(tmp_path):
  config = toy_config(num_steps=1)
  train(config, "toy.Run", str(tmp_path))
  shutil.rmtree(tmp_path / "checkpoints")
  (tmp_path / "checkpoints").write_text("x")
  with pytest.raises(UserError, match="checkpoints is no folder.*choose another --workdir"):
    train(config, "toy.Run", str(tmp_path))


@pytest.mark.parametrize("step", ["²", "٩", "9" * 5000, "-1", "1.0"])
def test_a_step_to_evaluate_that_is_no_number_of_one_is_refused(folder, step):
  with pytest.raises(UserError, match="--step="):
    chosen_steps(toy_config(), str(folder.parent), step)


@pytest.mark.parametrize("header", [{"shape": [2**39]}, {"chunks": [2**39]}, {"shape": [2**9]}])
def test_a_header_of_more_than_any_memory_or_file_holds_is_not_followed(folder, header):
  file = folder / "2" / "state" / "params.bias" / ".zarray"
  content = json.loads(file.read_text())
  file.write_text(json.dumps({**content, "chunks": [1], **header}))
  step = open_step(folder / "2")
  with pytest.raises(DamagedCheckpoint, match="params.bias/.zarray (names|is not what)"):
    read_arrays(step, ["params/bias"])


# Removing what is kept no longer


def test_a_step_that_goes_is_renamed_before_any_file_of_it_is_deleted(folder, monkeypatch):
  deleted, rmtree = [], shutil.rmtree
  monkeypatch.setattr(
    checkpoints.shutil, "rmtree", lambda path: (deleted.append(path), rmtree(path))
  )
  _save(folder, 3, 4, 5, keep_latest=1)
  assert saved_steps(folder) == [5] and not (folder / REMOVED).exists()
  assert deleted and all(REMOVED in (path.name, path.parent.name) for path in deleted)


def test_a_run_killed_while_it_deletes_leaves_nothing_that_looks_damaged(folder, restored):
  (folder / REMOVED).mkdir()
  (folder / "1").rename(folder / REMOVED / "1")
  shutil.rmtree(folder / REMOVED / "1" / "state")
  assert restored() == (2, [])
  assert {path.name for path in folder.iterdir()} == {"2"}
