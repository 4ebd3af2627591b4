"""A damaged checkpoint is never continued from: it is named, and the one before serves."""

import contextlib
import errno
import os
import pathlib
import shutil

import jax.numpy as jnp
import pytest

from layers.errors import UserError
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.listing import saved_steps
from runners.checkpoints.reading import DamagedCheckpoint, open_step, restore
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import CheckpointWriter
from tests.runners import damage as damages
from tests.runners.toy_run import assert_bitwise_equal
from tests.runners.toy_state import abstract, toy_state

# Orbax leaves a read that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LOSS = "eval/validation/loss"


def _run(step):
  return {"data": {"batch": step}, "callbacks": []}


def _save(folder, *numbers):
  writer = CheckpointWriter(folder, Checkpoints(keep_latest=9, keep_best=1))
  for number in numbers:
    writer.save(number, toy_state(number), _run(number), {LOSS: 1.0})
    writer.wait()
  writer.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checkpoints")
  _save(folder, 1, 2, 3)
  return folder


@pytest.fixture
def folder(three, tmp_path):
  """Checkpoints of the steps 1, 2 and 3, to be damaged."""
  return shutil.copytree(three, tmp_path / "checkpoints")


@pytest.fixture
def restored(notes):
  """Restores, and returns the step that was found, and the lines that say so."""

  def restore(folder):
    notes.clear()
    state, run = restore_newest(folder, abstract(toy_state(0)))
    assert_bitwise_equal(state, toy_state(int(state.step)))
    assert run == _run(int(state.step))
    return int(state.step), list(notes)

  return restore


@pytest.mark.parametrize("damage", damages.EVERY, ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_named_set_aside_and_passed_over_for_the_step_before(
  folder, restored, damage
):
  damage(folder / "3")
  step, lines = restored(folder)
  assert step == 2 and saved_steps(folder) == [1, 2]
  (line,) = lines
  assert line.startswith("Checkpoint 3 is damaged: ") and "continues from step 2" in line
  assert "kept as 3.unreadable" in line and (folder / "3.unreadable").is_dir()
  _save(folder, 3)  # the run comes by step 3 again
  assert restored(folder) == (3, [])


def test_what_is_intact_is_continued_from_without_a_word(folder, restored):
  assert restored(folder) == (3, [])
  assert saved_steps(folder) == [1, 2, 3]


def test_several_that_are_damaged_each_have_their_line(folder, restored):
  damages.flip_a_byte_of_an_array(folder / "3")
  damages.empty_the_folder(folder / "2")
  step, lines = restored(folder)
  assert step == 1 and saved_steps(folder) == [1]
  assert len(lines) == 2 and all("continues from step 1" in line for line in lines)


def test_an_older_one_that_would_stop_the_next_save_is_set_aside_too(folder, restored):
  damages.tear_a_file("metrics/metrics")(folder / "1")
  step, (line,) = restored(folder)
  assert step == 3 and "Checkpoint 1 is damaged: metrics/metrics" in line
  _save(folder, 4)
  assert saved_steps(folder) == [2, 3, 4]


def test_a_step_that_is_damaged_a_second_time_does_not_replace_what_was_set_aside(
  folder, restored
):
  for aside in ("3.unreadable", "3.unreadable.2"):
    damages.flip_a_byte_of_an_array(folder / "3")
    assert restored(folder)[0] == 2
    assert (folder / aside / "state").is_dir()
    _save(folder, 3)


@pytest.mark.parametrize(
  "damage, said",
  [
    (damages.change_a_value_of_an_array, "not what was saved: params/kernel"),
    (damages.lose_an_array, "kernel"),
    (damages.exchange_two_arrays, "params/kernel, opt_state/1/0/mu/kernel"),
    (damages.empty_the_folder, "its folder is empty"),
    (damages.lose_a_file("_CHECKPOINT_METADATA"), "_CHECKPOINT_METADATA is missing"),
    (damages.tear_a_file("run/metadata"), "run/metadata is no JSON"),
    (damages.truncate_an_array, "params.kernel/0.0"),
    (damages.lose_a_file("state/_METADATA"), "state/_METADATA is missing"),
    (damages.change_json("run/metadata", "data", "batch"), "run/metadata is not what was"),
    (damages.tear_a_file("inventory/metadata"), "inventory/metadata, is missing or damaged"),
    (
      damages.change_json("inventory/metadata", "arrays", "params/kernel", "checksum"),
      "its arrays may be intact, but nothing can tell",
    ),
  ],
)
def test_the_line_says_what_is_wrong(folder, restored, damage, said):
  damage(folder / "3")
  _, (line,) = restored(folder)
  assert said in line, line


def test_no_flipped_byte_of_an_array_is_ever_restored(folder):
  file = folder / "3" / "state" / "params.kernel" / "0.0"
  content = file.read_bytes()
  for place in range(0, len(content), 5):
    file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with contextlib.suppress(DamagedCheckpoint):  # else the flip is of no consequence
      state = restore(open_step(folder / "3"), abstract(toy_state(0)))
      assert_bitwise_equal(state, toy_state(3))


def test_when_none_is_intact_nothing_is_changed_and_the_user_is_told_of_each(folder):
  damages.flip_a_byte_of_an_array(folder / "3")
  damages.lose_an_item("run")(folder / "2")
  damages.empty_the_folder(folder / "1")
  with pytest.raises(
    UserError, match="none of the checkpoints .*step 1: its folder is empty; s"
  ):
    restore_newest(folder, abstract(toy_state(0)))
  assert saved_steps(folder) == [1, 2, 3]
  assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}


def test_arrays_of_another_model_are_no_damage(folder):
  state = toy_state(0)
  other = abstract(state.replace(params={"kernel": jnp.zeros((3, 3))}))
  with pytest.raises(UserError, match=r"kernel: \(8, 2\) there, \(3, 3\) here") as raised:
    restore_newest(folder, other)
  assert "params/bias: (8,) there, none here" in str(raised.value)
  assert saved_steps(folder) == [1, 2, 3]


def test_what_a_killed_save_left_is_no_checkpoint_and_is_removed_with_a_line(folder, restored):
  (folder / "3").rename(folder / "3.orbax-checkpoint-tmp")
  step, (line,) = restored(folder)
  assert step == 2 and line == "The save of step 3 was cut off, and what it left is removed."
  assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_a_checkpoint_without_checksums_is_restored_and_said_to_be_unverified(folder, restored):
  for step in saved_steps(folder):
    damages.as_saved_before_inventories(folder / str(step))
  step, (line,) = restored(folder)
  assert step == 3 and line.startswith("Checkpoint 3 was saved without checksums")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_read_now_is_no_damage_and_nothing_is_changed(
  folder, number, monkeypatch
):
  before = sorted(folder.rglob("*"))
  read_text = pathlib.Path.read_text

  def fail(path, *args, **named):
    if path.parts[-3:] == ("3", "run", "metadata"):
      raise OSError(number, os.strerror(number))
    return read_text(path, *args, **named)

  monkeypatch.setattr(pathlib.Path, "read_text", fail)
  with pytest.raises(UserError, match=f"3 cannot be read now: {os.strerror(number)}; nothing"):
    restore_newest(folder, abstract(toy_state(0)))
  assert sorted(folder.rglob("*")) == before
