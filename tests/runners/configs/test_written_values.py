"""A value that was written as text is read back, and nothing that the text names is called."""

import enum
import math
from typing import Any

import fiddle as fdl
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layers.errors import UserError
from layers.masks import causal_mask
from layers.normalization import RMSNorm
from runners.configs.tree import format_value
from runners.configs.written_values import read_written
from tests.canary import CALLS, FUZZ, NAMES


class Color(enum.Enum):
  RED = "red"


VALUES = [
  *(None, True, 3, -3, 0.95, -1e-08, math.inf, -math.inf, "", "it's @a:b() \n\x01", b"\x00"),
  *((), (1,), [1, "two", (None, -2.5)], {"a": [1], 2: ()}, {1, 2}, (("batch", ("data",)),)),
  *(causal_mask, jax.nn.relu, fdl.Config(RMSNorm), [fdl.Config(RMSNorm), causal_mask]),
]


@pytest.mark.parametrize("value", VALUES, ids=format_value)
def test_what_is_written_is_read_back(value):
  read = read_written(format_value(value))
  assert type(read) is type(value) and read == value


def test_a_number_that_is_none_is_read_back():
  assert math.isnan(read_written("nan"))


def test_a_member_of_an_enum_is_found_by_the_type_of_the_field():
  assert read_written("Color.RED", Color | None) is Color.RED
  with pytest.raises(UserError, match="cannot be read back"):
    read_written("Color.RED", Any)
  with pytest.raises(UserError, match="cannot be read back"):
    read_written("Color.BLUE", Color)


@pytest.mark.parametrize(
  "text",
  [
    *("", "word", "1 +", "-'a'", "-True", "f(1)", "...", "[x for x in y]", "{[]: 1}", "{**{}}"),
    *(format_value(np.ones(3)), "<object object>", "@jax.nn:relu(1)", "(" * 5000, "1" * 5000),
    *(
      "@os:system",
      "@os:system()",
      "@layers.masks:os",
      "@nowhere:thing",
      "9" * 30,
      "x" * 20_000,
    ),
  ],
)
def test_what_is_no_value_or_may_not_be_named_is_one_short_line(text):
  with pytest.raises(UserError) as error:
    read_written(text)
  assert "\n" not in str(error.value) and len(str(error.value)) < 1000


PIECES = [
  *(
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    ".",
    "-",
    "'",
    '"',
    "\\",
    "#",
    "\0",
    "\n",
    "=",
    " ",
  ),
  *("9" * 30, "1e999", "_name_0", "f(", "lambda: ", "inf", "Color.RED", "(" * 300, "\ud800"),
  *(f"@{name}{call}" for name in NAMES for call in ("", "()")),
]


@st.composite
def texts(draw) -> str:
  """A value as it is written, with something put in place of a part of it."""
  text = format_value(draw(st.sampled_from(VALUES)))
  for _ in range(draw(st.integers(1, 3))):
    at, left = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
    text = text[:at] + draw(st.sampled_from(PIECES)) + text[at + left :]
  return text


@pytest.mark.slow
@FUZZ
@given(texts())
def test_whatever_a_text_holds_a_value_or_one_short_line_comes_out(text):
  try:
    format_value(read_written(text, Color | None))
  except UserError as error:
    assert len(str(error)) < 1000
  assert not CALLS
