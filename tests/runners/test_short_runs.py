"""A run that ends before its warmup is told of, once, and trains."""

import fiddle as fdl
import pytest

from experiments.gpt2 import Nano
from layers.notices import heard
from runners import schedules
from runners.short_runs import note_short_run


def _notes(schedule, num_steps, **lengths):
  config = Nano().config()
  config.optimizer.learning_rate = fdl.Config(schedule, peak=1.0, **lengths)
  with heard(aloud=False) as notes:
    note_short_run(config, num_steps)
  return notes


SCHEDULES = (
  schedules.constant,
  schedules.warmup_cosine,
  schedules.warmup_linear,
  schedules.warmup_rsqrt,
  schedules.warmup_stable_decay,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warmup_as_long_as_the_run_is_said_aloud_by_every_schedule(schedule):
  (said,) = _notes(schedule, 5, warmup=5)
  assert said.startswith("optimizer.learning_rate: warmup")
  assert "the run has 5, so the rate never reaches its peak; a float such as" in said
  assert _notes(schedule, 50, warmup=5) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_part_of_the_run_fits_every_run(schedule):
  assert [_notes(schedule, steps, warmup=0.1) for steps in (1, 5, 1000)] == [[], [], []]


def test_a_decay_that_the_run_cuts_short_is_said_aloud():
  (said,) = _notes(schedules.warmup_stable_decay, 100, warmup=60, decay=50)
  assert (
    "warmup and decay take 110 steps and the run has 100, so the decay is cut short" in said
  )


def test_an_optimizer_without_a_schedule_has_nothing_to_say():
  config = Nano().config()
  config.optimizer.learning_rate = 0.1
  with heard(aloud=False) as notes:
    note_short_run(config, 1)
  assert notes == []
