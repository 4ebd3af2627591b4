"""An accepted batch size keeps the place in the data: no row is left out, none read twice."""

import fiddle as fdl
import numpy as np
import pytest

from input_pipelines.batches import TARGETS
from input_pipelines.loader import RowBatches
from layers.errors import UserError
from runners.callbacks import Callback, Run
from runners.checkpoints.listing import steps
from runners.checkpoints.reading import RUN, open_step
from runners.checkpoints.retention import Checkpoints
from runners.interchange.init_from import InitFrom
from runners.metrics.json_lines import read
from runners.metrics.writers import JsonLines
from runners.training import train
from tests.runners.toy_run import ToyText, toy_config

READ: list[tuple[int, tuple[int, ...]]] = []  # (batch, its rows) as the run asked for them


class StopsAt(Callback):
  """Leaves after a step, as a signal would."""

  def __init__(self, step: int):
    self._step = step

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    if run.step == self._step:
      raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def rows_are_noted(monkeypatch):
  look_up = RowBatches.row_indices

  def row_indices(self, n):
    indices = look_up(self, n)
    if self._seed is not None:
      READ.append((n, tuple(indices.tolist())))
    return indices

  monkeypatch.setattr(RowBatches, "row_indices", row_indices)
  READ.clear()


def start(folder, accept=(), stop=None, **fields):
  config = toy_config(
    checkpoints=fdl.Config(Checkpoints, every=4, keep_latest=9),
    writers=[fdl.Config(JsonLines)],
    callbacks=[] if stop is None else [fdl.Config(StopsAt, step=stop)],
    log_every=1,
    **{"train_data": fdl.Config(ToyText, num_documents=150), **fields},
  )
  accept = [*accept, "callbacks", "num_steps", "callbacks[0]", "callbacks[0].step"]
  return train(config, "toy", str(folder), accept_changes=accept)


def rows_of(first, end):
  """The rows of batches first .. end - 1, in order, as they were last asked for."""
  return [row for n in range(first, end) for row in dict(READ)[n]]


def order(num_rows):
  """The first rows of the run's order."""
  rows = ToyText(num_documents=150).packed_rows(12)
  return RowBatches(rows, batch_size=num_rows, seed=0).row_indices(0).tolist()


@pytest.mark.parametrize("before, after", [(4, 8), (8, 4)])
def test_the_next_row_follows_the_last_one_that_was_read(tmp_path, before, after):
  start(tmp_path / "run", batch_size=before, num_steps=8)
  start(tmp_path / "run", ["batch_size"], batch_size=after, num_steps=12)
  assert rows_of(0, 8) + rows_of(8, 12) == order(8 * before + 4 * after)
  saved = open_step(tmp_path / "run" / "checkpoints" / "12").documents[RUN]["data"]
  assert saved["rows"] == 8 * before + 4 * after and saved["batch"] == 12


@pytest.mark.slow
def test_restarts_after_the_change_are_bitwise_the_run_without_them(tmp_path):
  def run(name, *stops):
    start(tmp_path / name, batch_size=4, num_steps=8)
    for stop in stops:
      with pytest.raises(KeyboardInterrupt):
        start(tmp_path / name, ["batch_size"], stop=stop, batch_size=8, num_steps=20)
    start(tmp_path / name, ["batch_size"], batch_size=8, num_steps=20)
    rows = read(str(tmp_path / name / "metrics.jsonl"))
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]

  # Killed before anything was saved in the new size, then after a checkpoint in it.
  assert run("broken", 10, 14) == run("unbroken")


def test_a_size_that_changes_twice_keeps_its_place(tmp_path):
  for size, end in ((4, 4), (8, 8), (2, 12)):
    start(tmp_path / "run", ["batch_size"], batch_size=size, num_steps=end)
  assert rows_of(0, 12) == order(4 * 4 + 4 * 8 + 4 * 2)


def test_a_checkpoint_without_the_place_has_that_of_the_size_it_was_read_in(
  tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    patch.setattr("runners.data_position.describe", lambda assembly, step: {})
    start(tmp_path / "run", batch_size=4, num_steps=8)
  start(tmp_path / "run", ["batch_size"], batch_size=8, num_steps=10)
  assert rows_of(0, 10) == order(8 * 4 + 2 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(4, 8), (8, 4)])
def test_epochs_end_where_all_rows_have_been_read(tmp_path, before, after):
  epochs = {"num_steps": None, "num_epochs": 2, "train_data": fdl.Config(ToyText)}
  num_rows = ToyText().packed_rows(12).num_rows
  with pytest.raises(KeyboardInterrupt):
    start(tmp_path / "run", stop=5, batch_size=before, **epochs)
  start(tmp_path / "run", ["batch_size"], batch_size=after, **epochs)
  last = 4 + -(-(2 * num_rows - 4 * before) // after)
  assert steps(str(tmp_path / "run"))[-1] == last
  counts = np.unique(rows_of(0, last), return_counts=True)
  real = [(row, count) for row, count in zip(*counts, strict=True) if row >= 0]
  assert real == [(row, 2) for row in range(num_rows)]


def test_rows_of_another_length_are_refused_and_nothing_is_changed(tmp_path):
  start(tmp_path / "run", num_steps=4)
  with pytest.raises(UserError, match="sequence_length was 12, is 6: .*init_from=") as error:
    start(tmp_path / "run", ["sequence_length"], sequence_length=6, num_steps=8)
  assert "\n" not in str(error.value)
  start(tmp_path / "run", num_steps=8)
  assert rows_of(0, 8) == order(64)


def test_a_run_that_takes_over_another_goes_on_at_its_row(tmp_path, notes):
  model = toy_config().model
  model.max_positions = 12
  start(tmp_path / "one", batch_size=4, num_steps=8, model=model)
  source = fdl.Config(InitFrom, path=str(tmp_path / "one"), everything=True)
  start(tmp_path / "two", batch_size=8, num_steps=10, init_from=source, model=model)
  assert rows_of(0, 10) == order(8 * 4 + 2 * 8)
  shorter = {"sequence_length": 6, "model": model}
  start(tmp_path / "three", num_steps=10, init_from=source, **shorter)
  assert any("read from their beginning" in text for text in notes)
  batch = RowBatches(ToyText(num_documents=150).packed_rows(6), batch_size=8, seed=0)
  assert dict(READ)[8] == tuple(batch.row_indices(0).tolist())
  assert batch[0][TARGETS].shape == (8, 6)
