"""A range holds the numbers that its words name."""

import math

import pytest

from layers.ranges import Range

COUNT, RATE, SIZE = Range(at_least=1), Range(at_least=0, below=1), Range(above=0, at_most=2)


@pytest.mark.parametrize(
  "allowed, inside, outside",
  [
    (COUNT, (1, 2, 10**400), (0, -1, -(10**400))),
    (RATE, (0, 0.0, 0.999), (1, 1.0, -1e-9, 2)),
    (SIZE, (1e-300, 2.0), (0.0, 2.1)),
  ],
)
def test_the_bounds_are_where_they_are_said_to_be(allowed, inside, outside):
  assert all(allowed.holds(value) for value in inside)
  assert not any(allowed.holds(value) for value in outside)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_range_holds_what_is_not_finite(value):
  assert not any(allowed.holds(value) for allowed in (COUNT, RATE, SIZE, Range()))


def test_a_range_says_its_bounds_in_words():
  assert str(COUNT) == "at least 1"
  assert str(RATE) == "at least 0 and less than 1"
  assert str(SIZE) == "more than 0 and at most 2"
