"""The field `checkpoints` of an experiment: when to save, and which checkpoints to keep."""

import dataclasses
from typing import Literal

from layers.ranges import NonNegativeInt, PositiveInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
  """A checkpoint is kept if any of keep_latest, keep_every and keep_best applies to it.

  Attributes:
    every: steps between saves; None saves at the end and on a signal only.
    keep_latest: how many of the newest to keep; two, in case the newest is damaged.
    keep_every: also keep those at multiples of this many steps.
    keep_best: also keep this many with the best `metric`.
    metric: the scalar that decides which is best, as evaluated at the saved step.
    mode: whether the best is the smallest or the largest.
  """

  every: PositiveInt | None = 1000
  keep_latest: PositiveInt = 2
  keep_every: PositiveInt | None = None
  keep_best: NonNegativeInt = 0
  metric: str = "eval/validation/loss"
  mode: Literal["min", "max"] = "min"
