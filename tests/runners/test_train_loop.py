"""The order within a step is law: what is restored, written and seen follows from it."""

import signal

import pytest

from runners.callbacks import Callback
from tests.runners.loop_harness import Harness


@pytest.fixture
def harness():
  return Harness()


def test_a_step_draws_updates_fetches_evaluates_tells_writes_saves_and_stops(harness):
  first, second = harness.watcher("first"), harness.watcher("second")
  log = harness(num_steps=1, log_every=1, eval_every=1, every=1, callbacks=[first, second])
  scalars = {"train/sums": 1, "eval/validation/loss": 1.0}
  saved_run = {
    "data": {"batch": 1, "content": "text"},
    "callbacks": [["Watcher", {"name": "first"}], ["Watcher", {"name": "second"}]],
  }
  assert log.events == [
    ("on_start", "first"),
    ("on_start", "second"),
    ("draw", 0),
    ("update", "batch 0"),
    ("block", 1),
    ("fetch", 1),
    ("evaluate", 1),
    ("on_step", "first", 1, scalars),
    ("on_step", "second", 1, scalars),
    ("write", 1, scalars),
    ("save", 1, 1, 0, saved_run, scalars),
    ("wait",),
    ("on_end", "first"),
    ("on_end", "second"),
    ("flush",),
  ]


def test_a_step_has_one_row_with_all_its_scalars_and_one_without_scalars_has_none(harness):
  log = harness(num_steps=6, log_every=2, eval_every=3)
  assert log.named("write") == [
    ("write", 2, {"train/sums": 2}),
    ("write", 3, {"eval/validation/loss": 3.0}),
    ("write", 4, {"train/sums": 2}),
    ("write", 6, {"train/sums": 2, "eval/validation/loss": 6.0}),
  ]


def test_the_last_step_is_logged_and_evaluated_whatever_the_cadence(harness):
  log = harness(num_steps=3, log_every=100, eval_every=None)
  assert log.named("write") == [("write", 3, {"train/sums": 3, "eval/validation/loss": 3.0})]


def test_callbacks_see_every_step_and_what_they_add_is_written_and_saved(harness):
  adds = lambda run, scalars: scalars.update({"mine": 7.0})
  log = harness(num_steps=4, every=2, callbacks=[harness.watcher(s2=adds), harness.watcher()])
  assert [event[2] for event in log.named("on_step")] == [1, 1, 2, 2, 3, 3, 4, 4]
  assert log.named("on_step")[3][3] == {"mine": 7.0}  # the next callback of the list sees it
  assert log.named("write")[0] == ("write", 2, {"mine": 7.0})
  assert log.named("save")[0][-1] == {"mine": 7.0}


def test_a_checkpoint_pairs_the_state_with_the_next_batch(harness):
  log = harness(num_steps=5, every=2)
  saves = [(step, params, run["data"]) for _, step, params, _, run, _ in log.named("save")]
  data = lambda n: {"batch": n, "content": "text"}
  assert saves == [(2, 2, data(2)), (4, 4, data(4)), (5, 5, data(5))]


def test_sums_between_two_logs_are_saved_and_those_fetched_are_not_counted_again(harness):
  log = harness(num_steps=6, log_every=4, every=3)
  assert [(step, sums) for _, step, _, sums, _, _ in log.named("save")] == [(3, 3), (6, 0)]
  assert log.named("write")[-1][2]["train/sums"] == 2


def test_a_run_goes_on_with_the_batch_of_its_step(harness):
  log = harness(num_steps=7, start=5)
  assert log.named("draw") == [("draw", 5), ("draw", 6)]
  assert harness.final.params == 7


def test_a_finished_run_only_starts_and_ends(harness):
  log = harness(num_steps=3, start=3, every=1, callbacks=[harness.watcher()])
  assert log.events == [("on_start", "watcher"), ("wait",), ("on_end", "watcher"), ("flush",)]


def test_the_first_step_is_awaited_and_then_the_host_runs_two_ahead_of_the_device(harness):
  log = harness(num_steps=5)
  assert log.named("update", "block") == [
    ("update", "batch 0"),
    ("block", 1),
    ("update", "batch 1"),
    ("update", "batch 2"),
    ("update", "batch 3"),
    ("block", 2),
    ("update", "batch 4"),
    ("block", 3),
  ]


def test_a_callback_that_stops_the_run_has_its_step_saved(harness):
  stops = harness.watcher(s2=lambda run, scalars: run.stop("enough"))
  log = harness(num_steps=9, callbacks=[stops])
  assert [event[1] for event in log.named("save")] == [2]
  assert harness.run.stop_reason == "enough"
  assert log.named("draw") == [("draw", 0), ("draw", 1)]


def test_the_first_of_two_reasons_to_stop_is_reported(harness):
  one = harness.watcher(s1=lambda run, scalars: run.stop("one"))
  two = harness.watcher(s1=lambda run, scalars: run.stop("two"))
  harness(callbacks=[one, two])
  assert harness.run.stop_reason == "one"


def test_a_signal_ends_the_run_after_the_step_at_hand_which_is_saved_once(harness):
  def interrupt(run, scalars):
    harness.interruption.signal = signal.SIGTERM

  log = harness(num_steps=9, every=3, callbacks=[harness.watcher(s3=interrupt)])
  assert [event[1] for event in log.named("save")] == [3]
  assert log.events[-3:] == [("wait",), ("on_end", "watcher"), ("flush",)]


@pytest.mark.parametrize("every, saved", [(None, [4]), (2, [2, 4]), (3, [3, 4])])
def test_a_signal_while_a_batch_is_waited_for_saves_the_step_before_it_once(
  harness, every, saved
):
  harness.given_up_at = 4
  log = harness(num_steps=9, every=every)
  assert [event[1] for event in log.named("save")] == saved
  assert harness.run.step == 4 and harness.final.params == 4


def test_a_signal_before_the_first_batch_saves_nothing(harness):
  harness.given_up_at = 5
  assert harness(num_steps=9, start=5, every=1).named("save") == []


def test_a_signal_in_an_evaluation_saves_the_step_which_is_evaluated_when_it_goes_on(harness):
  harness.gives_up = True
  scalars, watcher = {"train/sums": 2}, harness.watcher()
  log = harness(num_steps=9, every=2, log_every=2, eval_every=2, callbacks=[watcher])
  ((_, step, params, sums, run, saved),) = log.named("save")
  assert (step, params, sums, saved, run["owed"]) == (2, 2, 0, scalars, scalars)
  assert [event[2] for event in log.named("on_step")] == [1] and not log.named("write")
  assert not harness.run.is_over

  harness.log.events.clear()
  harness.gives_up = False
  log = harness(num_steps=4, start=2, owed=run["owed"], every=2, log_every=2, eval_every=2)
  full = {"train/sums": 2, "eval/validation/loss": 2.0}
  assert log.events[0] == ("evaluate", 2)
  assert log.named("write")[0] == ("write", 2, full)
  assert [(event[1], "owed" in event[4]) for event in log.named("save")] == [(4, False)]


def test_an_error_saves_nothing_more_but_ends_callbacks_and_flushes_writers(harness):
  def fail(run, scalars):
    raise FloatingPointError("loss is nan")

  with pytest.raises(FloatingPointError):
    harness(num_steps=9, every=2, callbacks=[harness.watcher(s4=fail)])
  assert [event[1] for event in harness.log.named("save")] == [2]
  assert harness.log.events[-2:] == [("on_end", "watcher"), ("flush",)]


def test_a_callback_that_fails_at_the_end_keeps_no_other_from_its_end(harness):
  class Failing(Callback):
    def on_end(self, run):
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    harness(callbacks=[Failing(), harness.watcher()])
  assert harness.log.events[-2:] == [("on_end", "watcher"), ("flush",)]


def test_the_first_step_which_compiles_counts_for_no_throughput(harness):
  harness(num_steps=1, log_every=1)
  assert "perf/step_ms" not in harness.log.named("write")[0][2]


def test_a_run_that_a_callback_ended_stays_ended(harness):
  stopped = harness.watcher()
  stopped.on_start = lambda run: run.stop("enough")
  log = harness(num_steps=9, start=4, callbacks=[stopped])
  assert log.named("draw", "save") == []
