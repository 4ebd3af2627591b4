"""Schedules are what their names say at their corners, in steps or in fractions of the run."""

import pytest

from layers.errors import UserError
from runners import schedules

PEAK, END, STEPS = 2.0, 0.5, 100

# schedule, keywords, {step: rate}
CORNERS = [
  (schedules.constant, {}, {0: PEAK, 50: PEAK, 100: PEAK}),
  (schedules.constant, {"warmup": 10}, {0: 0.0, 5: 1.0, 10: PEAK, 100: PEAK}),
  (schedules.constant, {"warmup": 0.1}, {0: 0.0, 5: 1.0, 10: PEAK, 100: PEAK}),
  (schedules.warmup_cosine, {"end": END, "warmup": 0}, {0: PEAK, 50: 1.25, 100: END}),
  (schedules.warmup_cosine, {"end": END, "warmup": 20}, {0: 0.0, 20: PEAK, 60: 1.25, 100: END}),
  (schedules.warmup_cosine, {"warmup": 0.2}, {10: 1.0, 20: PEAK, 100: 0.0}),
  (schedules.warmup_cosine, {}, {0: 0.0, 2: PEAK, 100: 0.0}),
  (schedules.warmup_linear, {"end": END, "warmup": 20}, {0: 0.0, 20: PEAK, 60: 1.25, 100: END}),
  (schedules.warmup_linear, {"warmup": 0.5}, {25: 1.0, 50: PEAK, 75: 1.0, 100: 0.0}),
  (
    schedules.warmup_stable_decay,
    {"end": END, "warmup": 0.1, "decay": 0.2},
    {0: 0.0, 5: 1.0, 10: PEAK, 80: PEAK, 90: 1.25, 100: END},
  ),
  (
    schedules.warmup_stable_decay,
    {"warmup": 10, "decay": 90},
    {10: PEAK, 55: 1.0, 100: 0.0},
  ),
  (schedules.warmup_rsqrt, {"warmup": 25}, {0: 0.0, 25: PEAK, 100: 1.0}),
  (schedules.warmup_rsqrt, {"warmup": 0.25}, {0: 0.0, 25: PEAK, 100: 1.0}),
  (schedules.warmup_rsqrt, {"warmup": 0}, {1: PEAK, 4: 1.0, 100: 0.2}),
  (
    schedules.warmup_exponential,
    {"decay_rate": 0.25, "warmup": 20},
    {0: 0.0, 20: PEAK, 60: 1.0, 100: 0.5},
  ),
]


@pytest.mark.parametrize(
  "make, keywords, corners",
  CORNERS,
  ids=[f"{make.__name__}-{keywords}" for make, keywords, _ in CORNERS],
)
def test_a_schedule_has_the_rates_of_its_definition_at_its_corners(make, keywords, corners):
  schedule = make(PEAK, **keywords, num_steps=STEPS)
  got = {step: float(schedule(step)) for step in corners}
  assert got == pytest.approx(corners, abs=1e-6)


def test_a_float_is_a_fraction_of_the_run_and_an_int_a_number_of_steps():
  assert schedules.steps_of(1, 300) == 1
  assert schedules.steps_of(1.0, 300) == 300
  assert schedules.steps_of(0.1, 300) == 30
  assert schedules.steps_of(0.0, 300) == 0


@pytest.mark.parametrize("length", [1.5, -0.1, 2000.0])
def test_a_float_outside_0_to_1_is_refused(length):
  with pytest.raises(UserError, match="write steps as an int"):
    schedules.steps_of(length, 300)


@pytest.mark.parametrize(
  "make", sorted({make for make, _, _ in CORNERS}, key=lambda make: make.__name__)
)
def test_a_schedule_without_the_length_of_the_run_says_what_to_set(make):
  keywords = {"decay_rate": 0.5} if make is schedules.warmup_exponential else {}
  with pytest.raises(UserError, match="num_steps: set the trainer's, or the schedule's own"):
    make(PEAK, **keywords)


def test_a_decay_is_cut_to_what_the_warmup_leaves_of_a_short_run():
  schedule = schedules.warmup_stable_decay(PEAK, warmup=60, decay=0.5, num_steps=100)
  got = [float(schedule(step)) for step in (30, 60, 80, 100)]
  assert got == pytest.approx([PEAK / 2, PEAK, PEAK / 2, 0.0])


def test_fractions_that_are_more_than_any_run_are_refused():
  with pytest.raises(UserError, match="warmup=0.7 and decay=0.5 are more than the whole run"):
    schedules.warmup_stable_decay(PEAK, warmup=0.7, decay=0.5, num_steps=100)


@pytest.mark.parametrize(
  "make", [schedules.warmup_cosine, schedules.warmup_linear, schedules.warmup_stable_decay]
)
def test_a_warmup_longer_than_the_run_still_warms_up(make):
  schedule = make(PEAK, warmup=200, num_steps=100)
  assert float(schedule(100)) == pytest.approx(PEAK / 2)
