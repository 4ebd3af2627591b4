"""The order in which callbacks are called, and what they may read there, is law."""

import pytest

from layers.errors import UserError
from runners.callbacks import Callback
from tests.runners.loop_harness import Harness, Watcher


@pytest.fixture
def harness():
  return Harness()


class Everything(Watcher):
  """Logs the other hooks too, with what `run.state` shows in each."""

  def on_start(self, run):
    self.log.events.append(("on_start", self.name, run.state.params))

  def on_step_start(self, run):
    self.log.events.append(("on_step_start", self.name, run.step, run.state.params))

  def on_eval(self, run, scalars):
    self.log.events.append(("on_eval", self.name, run.state.params, dict(scalars)))
    scalars[f"eval/{self.name}"] = 1.0

  def on_step(self, run, scalars):
    super().on_step(run, scalars)
    run.write_media(self.name, "text")

  def on_end(self, run):
    self.log.events.append(("on_end", self.name, run.state.params))


def test_the_order_of_all_hooks_is_law(harness):
  one, two = (Everything(harness.log, name) for name in ("one", "two"))
  log = harness(num_steps=2, every=1, log_every=2, eval_every=2, callbacks=[one, two])
  loss = {"eval/validation/loss": 2.0}
  scalars = {"train/sums": 2, **loss, "eval/one": 1.0, "eval/two": 1.0}
  told = [event[:4] if event[0] == "save" else event for event in log.events]
  assert [event for event in told if event[0] != "block"] == [
    ("on_start", "one", 0),
    ("on_start", "two", 0),
    ("on_step_start", "one", 0, 0),
    ("on_step_start", "two", 0, 0),
    ("draw", 0),
    ("update", "batch 0"),
    ("on_step", "one", 1, {}),
    ("on_step", "two", 1, {}),
    ("media", 1, ["one", "two"]),
    ("save", 1, 1, 1),
    ("on_step_start", "one", 1, 1),
    ("on_step_start", "two", 1, 1),
    ("draw", 1),
    ("update", "batch 1"),
    ("fetch", 2),
    ("evaluate", 2),
    ("on_eval", "one", 2, loss),
    ("on_eval", "two", 2, {**loss, "eval/one": 1.0}),
    ("on_step", "one", 2, scalars),
    ("on_step", "two", 2, scalars),
    ("write", 2, scalars),
    ("media", 2, ["one", "two"]),
    ("save", 2, 2, 0),
    ("wait",),
    ("on_end", "one", 2),
    ("on_end", "two", 2),
    ("flush",),
  ]


def test_after_a_step_that_failed_there_is_no_state_to_read(harness):
  def fail(state, batch):
    raise FloatingPointError("out of memory")

  class Ends(Callback):
    def on_end(self, run):
      with pytest.raises(UserError, match="has been taken back"):
        run.state.params  # noqa: B018 - reading is what fails
      harness.log.events.append(("ended",))

  harness._train_step = fail
  with pytest.raises(FloatingPointError):
    harness(callbacks=[Ends()])
  assert harness.log.events[-2:] == [("ended",), ("flush",)]
