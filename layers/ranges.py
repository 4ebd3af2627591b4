"""Number types with a range: a count is at least 1, a dropout rate is below 1.

A field with such a type is checked when an override sets it (experiments/values.py), and again
before a config becomes a run, whoever set it (runners/configs/ranges.py).
"""

import dataclasses
import math
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
  """Bounds on a number; NaN and infinities are never allowed."""

  at_least: float | None = None
  above: float | None = None
  below: float | None = None
  at_most: float | None = None

  def holds(self, value: float) -> bool:
    """Whether `value` is in the range."""
    return (
      (isinstance(value, int) or math.isfinite(value))
      and (self.at_least is None or value >= self.at_least)
      and (self.above is None or value > self.above)
      and (self.below is None or value < self.below)
      and (self.at_most is None or value <= self.at_most)
    )

  def __str__(self) -> str:
    """In the words of an error message, such as "at least 0 and less than 1"."""
    bounds = {
      "at least": self.at_least,
      "more than": self.above,
      "less than": self.below,
      "at most": self.at_most,
    }
    return " and ".join(f"{words} {n}" for words, n in bounds.items() if n is not None)


PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
AxisSize = Literal[-1] | PositiveInt  # -1: all remaining devices
Seed = Annotated[int, Range(at_least=-(2**63), below=2**63)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
FractionBelowOne = Annotated[float, Range(at_least=0, below=1)]
PositiveFraction = Annotated[float, Range(above=0, at_most=1)]
