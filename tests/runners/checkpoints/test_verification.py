"""Whether a checkpoint is what was saved can be told without the model's code."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.command_line import main
from layers.errors import UserError
from runners.checkpoints.inventory import SavedArray
from runners.checkpoints.reading import in_portions, open_step, read_arrays
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.verification import verify
from runners.checkpoints.writing import CheckpointWriter
from tests.runners import damage as damages
from tests.runners.toy_state import toy_state

# Orbax leaves a read that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  run = tmp_path_factory.mktemp("run")
  writer = CheckpointWriter(run / "checkpoints", Checkpoints(keep_latest=9))
  for step in (1, 20):
    writer.save(step, toy_state(step), {"data": {"batch": step}}, {})
    writer.wait()
  writer.close()
  return run


@pytest.fixture
def run(saved, tmp_path):
  """A run with checkpoints 1 and 20, to be damaged."""
  return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def ckpt(capsys):
  """Runs `runner ckpt`: (exit code, lines printed)."""

  def call(*arguments):
    code = main(["runner", "ckpt", *map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()

  return call


def test_a_run_its_checkpoints_and_one_of_them_are_intact(run, ckpt):
  both = ["step  1  intact: 18 arrays", "step 20  intact: 18 arrays"]
  assert ckpt("verify", run) == ckpt("verify", run / "checkpoints") == (0, both)
  assert ckpt("verify", run / "checkpoints" / "20") == (0, [both[1]])


@pytest.mark.parametrize("damage", damages.EVERY, ids=lambda damage: damage.__name__)
def test_whatever_is_damaged_is_found(run, damage):
  damage(run / "checkpoints" / "20")
  (_, intact), (line, damaged) = verify(str(run))
  assert (intact, damaged) == (True, False)
  assert line.startswith("step 20  damaged: ")


@pytest.mark.parametrize(
  "damage, said",
  [
    (damages.change_a_value_of_an_array, "params/kernel is not what was saved"),
    (damages.truncate_an_array, "params/kernel cannot be read: .*params.kernel/0.0"),
    (damages.lose_the_values_of_an_array, "params.kernel/0.0.* is missing"),
    (damages.tear_a_file("run/metadata"), "run/metadata is no JSON"),
    (
      damages.lose_an_item("inventory"),
      "its list of checksums, inventory/metadata, is missing",
    ),
  ],
)
def test_the_line_names_the_array_or_the_file_and_the_exit_code_is_1(run, ckpt, damage, said):
  damage(run / "checkpoints" / "20")
  code, (_, line) = ckpt("verify", run)
  assert code == 1
  assert re.search(said, line), line


@pytest.mark.parametrize("damage", [damages.flip_a_byte_of_a_header, damages.grow_a_header])
def test_a_damaged_header_is_one_line_and_nothing_beside_it(run, damage):
  damage(run / "checkpoints" / "20")
  command = [sys.executable, "-m", "experiments", "ckpt", "verify", str(run)]
  found = subprocess.run(command, capture_output=True, text=True)
  assert (found.returncode, len(found.stdout.splitlines()), found.stderr) == (1, 2, "")
  assert "state/params.kernel/.zarray" in found.stdout


def test_a_checkpoint_that_was_set_aside_can_be_looked_at_too(run, ckpt):
  damages.empty_the_folder(run / "checkpoints" / "20")
  aside = (run / "checkpoints" / "20").rename(run / "checkpoints" / "20.unreadable")
  assert ckpt("verify", aside) == (1, ["step 20.unreadable  damaged: its folder is empty"])


def test_one_without_checksums_is_read_and_said_to_be_without(run, ckpt):
  step = damages.as_saved_before_inventories(run / "checkpoints" / "20")
  line = "step 20  readable: 18 arrays, saved without checksums"
  assert ckpt("verify", step) == (0, [line])
  damages.truncate_an_array(step)
  assert ckpt("verify", step)[0] == 1


def test_where_there_is_nothing_to_verify_the_user_is_told(tmp_path):
  with pytest.raises(UserError, match="holds no checkpoint"):
    list(verify(str(tmp_path)))


def test_no_portion_is_heavier_than_the_largest_array_and_none_is_left_out():
  sizes = {"a": 3, "b": 30, "c": 2, "d": 40, "e": 5, "f": 1}  # in units of 4 MiB
  arrays = {name: SavedArray((size * 2**20,), "float32") for name, size in sizes.items()}
  portions = list(in_portions(arrays))
  assert [name for names in portions for name in names] == list(sizes)
  assert max(sum(sizes[name] for name in names) for names in portions) == 40
  assert len(portions) == 3


def test_arrays_are_read_by_name_and_no_others(saved):
  step = open_step(saved / "checkpoints" / "20")
  arrays = read_arrays(step, ["opt_state/1/0/mu/kernel", "step"])
  assert arrays.keys() == {"opt_state/1/0/mu/kernel", "step"}
  assert arrays["step"] == 20
  want = toy_state(20).opt_state[1][0].mu["kernel"]
  np.testing.assert_array_equal(arrays["opt_state/1/0/mu/kernel"], want)


def test_a_checkpoint_that_the_run_removes_meanwhile_is_no_damage(run):
  lines = verify(str(run))
  assert next(lines)[1]
  shutil.rmtree(run / "checkpoints" / "20")
  assert not list(lines)
