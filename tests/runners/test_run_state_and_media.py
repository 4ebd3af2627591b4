"""A callback reads the state within its call alone, and what it shows is written once."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fiddle as fdl
import jax
import numpy as np
import pytest

from layers.errors import UserError
from layers.notices import heard
from runners.callbacks import Callback, Run
from runners.metrics.json_lines import JsonLines
from runners.metrics.media import Histogram, Image
from runners.metrics.tensorboard import TensorBoard
from runners.metrics.writers import open_writers
from runners.training import train
from tests.runners.toy_run import toy_config

AT_STEPS: list[Any] = []  # what Probe calls: a config holds no function of a test


class Probe(Callback):
  """Calls AT_STEPS with the run after each step."""

  def on_step(self, run, scalars):
    for act in AT_STEPS:
      act(run)


@pytest.fixture(autouse=True)
def nothing_left_to_do():
  yield
  AT_STEPS.clear()


@dataclasses.dataclass
class Shows(Callback):
  """Writes a medium of each kind with every second step, and counts its calls."""

  calls: int = 0

  def on_start(self, run):
    run.write_media("start", "begun")

  def on_step(self, run, scalars):
    self.calls += 1
    if run.step % 2 == 0:
      run.write_media("text", f"step {run.step}")
      run.write_media("image", Image(np.full((2, 3), run.step / 10)))
      run.write_media("histogram", Histogram(jax.tree.leaves(run.state.params)[0], 4))

  def state(self):
    return {"calls": self.calls}

  def restore(self, state):
    self.calls = state["calls"]


def _probe(act: Any) -> list[fdl.Config]:
  AT_STEPS[:] = [act]
  return [fdl.Config(Probe)]


def _train(workdir: Path, *callbacks: Any, num_steps: int = 4, **fields: Any) -> None:
  config = toy_config(
    callbacks=list(callbacks),
    num_steps=num_steps,
    log_every=1,
    writers=[fdl.Config(JsonLines), fdl.Config(TensorBoard)],
    **fields,
  )
  train(config, "toy.Run", str(workdir))


def _rows(workdir: Path) -> list[str]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [line.partition(', "perf/')[0] for line in lines]


def _events(workdir: Path):
  from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

  return EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0}).Reload()


def test_the_state_is_that_after_the_step_and_a_copy_of_it_stays(tmp_path):
  kept = []

  def keep(run):
    kept.append((run.step, int(run.state.step), jax.tree.map(np.array, run.state.params)))

  _train(tmp_path, *_probe(keep))
  assert [(step, at) for step, at, _ in kept] == [(n, n) for n in (1, 2, 3, 4)]
  first, last = (
    np.concatenate([x.ravel() for x in jax.tree.leaves(kept[i][2])]) for i in (0, 3)
  )
  assert np.isfinite(first).all() and (first != last).any()


def test_what_a_callback_does_to_the_state_changes_no_number_of_the_training(tmp_path):
  def meddle(run):
    params = run.state.params
    for name in list(params):
      params[name] = None
    run.state.opt_state  # noqa: B018 - read and let go
    with pytest.raises(UserError, match="read only: Probe.on_step at step .* set its 'params'"):
      run.state.params = {}
    with pytest.raises(ValueError, match="read-only"):
      np.asarray(jax.tree.leaves(run.state.params)[0])[...] = 0.0

  _train(tmp_path / "meddled", *_probe(meddle))
  AT_STEPS.clear()
  _train(tmp_path / "alone")
  assert _rows(tmp_path / "meddled") == _rows(tmp_path / "alone")


def test_a_state_kept_beyond_the_call_says_why_it_cannot_be_read(tmp_path):
  kept = []

  def keep(run):
    if kept:
      with pytest.raises(UserError, match="lent to Probe.on_step at step 1 and has been taken"):
        kept[0].params  # noqa: B018 - reading is what fails
    kept.append(run.state)

  _train(tmp_path, *_probe(keep))
  assert len(kept) == 4
  with pytest.raises(UserError, match="within a callback's hook"):
    Run("workdir", 1).state  # noqa: B018


def test_an_array_kept_beyond_the_call_says_why_it_is_gone(tmp_path):
  kept = []

  def keep(run):
    kept.append(jax.tree.leaves(run.state.params)[0])
    kept[0] + 1

  with pytest.raises(UserError, match="Probe.on_step reads an array that it kept"):
    _train(tmp_path, *_probe(keep))
  assert len(kept) == 2


def test_a_callback_that_gives_the_buffers_away_is_named(tmp_path):
  def donate(run):
    jax.jit(lambda x: x + 1, donate_argnums=0)(jax.tree.leaves(run.state.params)[0])

  with pytest.raises(UserError, match="Probe.on_step at step 1 has deleted arrays"):
    _train(tmp_path, *_probe(donate))


def test_media_are_written_at_their_steps_to_the_writer_that_has_a_place(tmp_path):
  with heard() as said:
    _train(tmp_path, fdl.Config(Shows))
  (note,) = [line for line in said if "media" in line]
  assert note == (
    "media such as 'start' are not written to JsonLines, where there is no place for them"
  )
  events = _events(tmp_path)
  assert [event.step for event in events.Tensors("start")] == [1]
  texts = [(x.step, x.tensor_proto.string_val[0]) for x in events.Tensors("text")]
  assert texts == [(2, b"step 2"), (4, b"step 4")]
  (width, height, png), _ = (x.tensor_proto.string_val for x in events.Tensors("image"))
  assert (width, height, png[:4]) == (b"3", b"2", b"\x89PNG")
  from tensorboard.util.tensor_util import make_ndarray

  counts = make_ndarray(events.Tensors("histogram")[0].tensor_proto)
  assert counts.shape == (4, 3) and (np.diff(counts[:, 0]) > 0).all() and counts[:, 2].sum() > 0


def test_a_run_that_goes_on_writes_no_medium_twice_and_its_callbacks_count_on(tmp_path):
  callbacks = [fdl.Config(Shows), fdl.Config(Probe), fdl.Config(Ends)]
  AT_STEPS[:] = [_stop_at_5]
  _train(tmp_path, *callbacks, num_steps=8)
  AT_STEPS[:] = [_fail_at_7]  # steps 6 and 7 are made, their media too, and not saved
  with pytest.raises(UserError, match="as if"):
    _train(tmp_path, *callbacks, num_steps=8)
  AT_STEPS.clear()
  _train(tmp_path, *callbacks, num_steps=8)
  events = _events(tmp_path)
  for name in ("text", "image", "histogram"):
    assert [event.step for event in events.Tensors(name)] == [2, 4, 6, 8]
  assert [event.step for event in events.Tensors("start")] == [1, 6]
  metadata = json.loads((tmp_path / "checkpoints" / "8" / "run" / "metadata").read_text())
  assert ["Shows", {"calls": 8}] in metadata["callbacks"]


def _stop_at_5(run):
  if run.step == 5:
    run.stop("enough")


def _fail_at_7(run):
  if run.step == 7:
    raise UserError("as if the machine stopped here")


class Ends(Callback):
  """Finds the run's last state at its end, and no row for a medium."""

  def on_end(self, run):
    assert int(run.state.step) == run.step
    with pytest.raises(UserError, match="in on_end, which has no row"):
      run.write_media("late", "text")


def test_media_need_no_tensorflow(tmp_path):
  code = (
    "import sys, numpy; from runners.metrics.tensorboard import TensorBoardWriter as W;"
    f"from runners.metrics.media import *; w = W({str(tmp_path)!r});"
    "w.write_texts(1, {'t': 'x'}); w.write_images(1, {'i': Image(numpy.zeros((2, 2))).pixels});"
    "w.write_histograms(1, {'h': numpy.ones(3)}, {'h': 5}); w.close();"
    "print('tensorflow' in sys.modules)"
  )
  made = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert made.stdout.strip() == "False" and len(list(tmp_path.iterdir())) == 1


def test_a_writer_that_fails_with_a_medium_keeps_the_run_and_the_other_writers():
  written = []

  @dataclasses.dataclass(frozen=True)
  class Writer:
    fails: bool

    def open(self, workdir, num_steps):
      return self

    def write_texts(self, step, texts):
      if self.fails:
        raise OSError("no connection")
      written.append((step, texts))

  with heard() as said:
    writer = open_writers([Writer(True), Writer(False)], "unused", 1)
    run = Run("workdir", 1)
    run.write_media("sample", "text")
    writer.write_media(3, run.take_media())
  assert written == [(3, {"sample": "text"})]
  assert said == ["Writer lost media of step 3: OSError: no connection"]


@pytest.mark.parametrize(
  "make, words",
  [
    (lambda: Image(np.zeros((2, 2, 5))), r"shape \(2, 2, 5\): write \[H, W\]"),
    (lambda: Image(np.zeros((2, 2), int)), "int64: give uint8"),
    (lambda: Image(np.full((2, 2), np.nan)), "not between 0 and 1"),
    (lambda: Image(np.full((2, 2), 1.5)), "not between 0 and 1"),
    (lambda: Histogram([]), "needs numbers"),
    (lambda: Histogram([1.0, np.inf]), "all of them finite"),
    (lambda: Run("", 1).write_media("x", np.zeros(3)), "was given a ndarray: give a str"),  # pyright: ignore
  ],
)
def test_what_is_no_medium_is_refused_with_what_is(make, words):
  with pytest.raises(UserError, match=words):
    make()


def test_two_media_of_one_name_for_one_step_are_refused():
  run = Run("", 1)
  run.write_media("x", "one")
  with pytest.raises(UserError, match="two media of this name"):
    run.write_media("x", "two")
  run.take_media()
  run.write_media("x", "of the next step")


def test_an_image_is_copied_and_rounded_to_bytes():
  pixels = np.array([[0.0, 0.5], [1.0, 0.1]])
  image = Image(pixels)
  pixels[:] = 0.9
  np.testing.assert_array_equal(image.pixels[0, :, :, 0], [[0, 128], [255, 26]])
  given = np.zeros((2, 4, 4, 3), np.uint8)
  assert Image(given).pixels.shape == (2, 4, 4, 3) and copy.copy(image) == image
