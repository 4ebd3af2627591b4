"""A run whose newest checkpoint was damaged goes on bitwise as the run that nothing befell."""

import json
import shutil

import fiddle as fdl
import numpy as np
import pytest

from layers.errors import UserError
from runners import optimizers
from runners.checkpoints.difference import difference
from runners.checkpoints.listing import saved_steps
from runners.checkpoints.retention import Checkpoints
from runners.evaluate_run import evaluate
from runners.metrics.writers import JsonLines
from runners.training import train
from tests.runners import damage as damages
from tests.runners.toy_run import ToyText, files_under, toy_config

# Orbax leaves a read that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STEPS = 6


def _config(**fields):
  return toy_config(
    dropout_rate=0.1,
    num_steps=STEPS,
    log_every=1,
    optimizer=fdl.Config(optimizers.adamw, learning_rate=1e-2),
    eval_data={"validation": fdl.Config(ToyText, split="validation")},
    checkpoints=fdl.Config(Checkpoints, every=2, keep_latest=9),
    writers=[fdl.Config(JsonLines)],
    **fields,
  )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  assert train(_config(), "toy.Run", str(workdir)) == 0
  return workdir


@pytest.fixture
def workdir(unbroken, tmp_path):
  """The same run, to be damaged: it has checkpoints of the steps 2, 4 and 6."""
  return shutil.copytree(unbroken, tmp_path / "run")


def _newest(workdir):
  return workdir / "checkpoints" / str(STEPS)


def _rows(workdir):
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


REPRESENTATIVE = [
  damages.change_a_value_of_an_array,
  damages.truncate_an_array,
  damages.lose_the_values_of_an_array,
  damages.empty_the_folder,
  damages.lose_a_file("_CHECKPOINT_METADATA"),
  damages.lose_a_file("state/_METADATA"),
  damages.tear_a_file("run/metadata"),
  damages.lose_an_item("inventory"),
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", REPRESENTATIVE, ids=lambda damage: damage.__name__)
def test_it_goes_on_from_the_step_before_bitwise_as_the_unbroken_run(
  unbroken, workdir, damage, notes
):
  damage(_newest(workdir))
  assert train(_config(), "toy.Run", str(workdir)) == 0
  said = [line for line in notes if "Checkpoint" in line]
  assert len(said) == 1 and "Checkpoint 6 is damaged" in said[0]
  assert "continues from step 4" in said[0]
  assert _rows(workdir) == _rows(unbroken)
  assert [row["step"] for row in _rows(workdir)] == list(range(1, STEPS + 1))
  compared = difference(str(_newest(workdir)), str(_newest(unbroken))).splitlines()
  equal, _, total, *_ = compared[-1].split()
  assert equal == total and len(compared) == 3, compared


def test_a_run_of_which_nothing_is_intact_is_left_as_it_is(workdir):
  for step in saved_steps(workdir / "checkpoints"):
    damages.change_a_value_of_an_array(workdir / "checkpoints" / str(step))
  before = files_under(workdir)
  with pytest.raises(UserError, match="none of the checkpoints .* is intact"):
    train(_config(), "toy.Run", str(workdir))
  assert files_under(workdir) == before


def test_a_damaged_checkpoint_is_neither_evaluated_nor_begun_from(workdir, tmp_path, capsys):
  damages.change_a_value_of_an_array(_newest(workdir))
  with pytest.raises(UserError, match="checkpoints/6 is damaged: not what was saved: params"):
    evaluate(_config(), str(workdir))
  with pytest.raises(UserError, match="checkpoints/6 is damaged: .*; name another step"):
    train(_config(init_from=str(workdir)), "toy.Run", str(tmp_path / "other"))
  capsys.readouterr()
  assert evaluate(_config(), str(workdir), "all") == 1
  two, four, six = capsys.readouterr().out.splitlines()
  assert "step 2  eval/validation/loss=" in two and "step 4  eval/" in four
  assert six.startswith("step 6  the checkpoint ") and "is damaged" in six


def test_what_an_evaluation_does_not_read_may_be_damaged(workdir, capsys):
  folder = _newest(workdir) / "state"
  moments = [path for path in folder.iterdir() if ".mu." in path.name]
  for path in moments:
    shutil.rmtree(path)
  assert moments and evaluate(_config(), str(workdir)) == 0
  losses = [
    float(word.split("=")[1]) for word in capsys.readouterr().out.split() if "loss=" in word
  ]
  np.testing.assert_allclose(losses[0], _rows(workdir)[-1]["eval/validation/loss"], atol=1e-6)
