"""Event files hold what TensorBoard and whatever else reads them expect, no step twice."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

from runners.metrics.tensorboard import TensorBoard, TensorBoardWriter
from tests.runners.metrics.test_writers import full_disk


def events(folder, kind="event_accumulator"):
  module = importlib.import_module(f"tensorboard.backend.event_processing.{kind}")
  accumulator = module.EventAccumulator(str(folder / "tensorboard"))
  accumulator.Reload()
  return accumulator


def test_what_reads_event_files_finds_scalars_with_the_time_of_their_step(tmp_path):
  now = iter(range(1000, 2000, 100))
  writer = TensorBoardWriter(str(tmp_path / "tensorboard"), clock=lambda: next(now))
  writer.resume(0)
  for step in (10, 20, 30):
    writer.write(step, {"train/loss": np.float32(1 / step), "eval/x/tokens": step})
  writer.close()
  found = events(tmp_path)
  assert set(found.Tags()["scalars"]) == {"train/loss", "eval/x/tokens"}
  loss = found.Scalars("train/loss")
  assert [(x.step, x.value) for x in loss] == [(s, np.float32(1 / s)) for s in (10, 20, 30)]
  first, *others = [x.wall_time for x in loss]
  assert others == [first + 100, first + 200]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["event_accumulator", "plugin_event_accumulator"])
def test_tensorboard_shows_no_step_of_a_resumed_run_twice(tmp_path, kind):
  from tensorboard.util.tensor_util import make_ndarray

  for restored, last in ((0, 6), (4, 8)):
    writer = TensorBoard().open(str(tmp_path), None)
    writer.resume(restored)
    for step in range(restored + 1, last + 1):
      writer.write(step, {"train/loss": float(restored)})
    writer.flush()
    writer.close()
  found = events(tmp_path, kind)
  if kind == "event_accumulator":
    shown = [(event.step, event.value) for event in found.Scalars("train/loss")]
  else:  # what TensorBoard itself reads with
    tensors = found.Tensors("train/loss")
    shown = [(event.step, float(make_ndarray(event.tensor_proto))) for event in tensors]
  assert [step for step, _ in shown] == [1, 2, 3, 4, 5, 6, 7, 8]
  assert [value for _, value in shown] == [0.0] * 4 + [4.0] * 4


def test_event_files_need_no_tensorflow(tmp_path):
  code = f"""
import sys
from runners.metrics.tensorboard import TensorBoard, TensorBoardWriter
writer = TensorBoard().open({str(tmp_path)!r}, None)
writer.write(1, {{"train/loss": 1.0}})
writer.close()
sys.exit("tensorflow" in sys.modules)
"""
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_without_metrics_leaves_no_event_file(tmp_path):
  writer = TensorBoard().open(str(tmp_path), None)
  writer.resume(0)
  writer.flush()
  writer.close()
  assert not (tmp_path / "tensorboard").exists()


def test_without_tensorboard_one_note_says_so(tmp_path, monkeypatch, notes):
  monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
  writer = TensorBoard().open(str(tmp_path), None)
  for step in (1, 2):
    writer.write(step, {"train/loss": 1.0})
  writer.flush()
  writer.close()
  assert len(notes) == 1 and "tensorboard/ is not written" in notes[0]


def test_events_that_found_no_room_are_written_once_there_is_some(tmp_path, monkeypatch):
  writer = TensorBoard().open(str(tmp_path), None)
  writer.resume(0)
  with monkeypatch.context() as patch:
    patch.setattr(os, "write", full_disk)
    writer.write(1, {"train/loss": 1.0})
  writer.write(2, {"train/loss": 0.5})
  writer.close()
  assert [event.step for event in events(tmp_path).Scalars("train/loss")] == [1, 2]
