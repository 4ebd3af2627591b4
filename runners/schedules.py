"""Learning-rate schedules: optax's, with lengths that follow the run.

`num_steps` is derived from the trainer unless given, so that `--set=num_steps=100` needs no
other override. Warmup and decay are in steps (an int) or a fraction of num_steps (a float).
"""

import jax.numpy as jnp
import optax

from layers.errors import UserError
from layers.ranges import (
  Fraction,
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFraction,
  PositiveInt,
)

Length = NonNegativeInt | Fraction  # steps, or a fraction of num_steps


def steps_of(length: Length, num_steps: int) -> int:
  """`length` in steps: an int is steps already, a float a fraction of num_steps."""
  if isinstance(length, float):
    if not 0.0 <= length <= 1.0:
      raise UserError(f"a length of {length} is no fraction; write steps as an int")
    return round(length * num_steps)
  return length


def constant(
  peak: NonNegativeFloat, warmup: Length = 0, num_steps: PositiveInt | None = None
) -> optax.Schedule:
  """`peak` throughout, after a linear warmup from 0."""
  return _warmed_up(optax.constant_schedule(peak), peak, warmup, _required(num_steps))


def warmup_cosine(
  peak: NonNegativeFloat,
  end: NonNegativeFloat = 0.0,
  warmup: Length = 0.02,
  num_steps: PositiveInt | None = None,
) -> optax.Schedule:
  """Linear from 0 to `peak`, then half a cosine to `end` (https://arxiv.org/abs/1608.03983)."""
  num_steps = _required(num_steps)
  decay_steps = max(1, num_steps - steps_of(warmup, num_steps))
  decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=end / peak if peak else 0.0)
  return _warmed_up(decay, peak, warmup, num_steps)


def warmup_linear(
  peak: NonNegativeFloat,
  end: NonNegativeFloat = 0.0,
  warmup: Length = 0.02,
  num_steps: PositiveInt | None = None,
) -> optax.Schedule:
  """Linear from 0 to `peak`, then linear to `end`."""
  num_steps = _required(num_steps)
  decay_steps = max(1, num_steps - steps_of(warmup, num_steps))
  return _warmed_up(optax.linear_schedule(peak, end, decay_steps), peak, warmup, num_steps)


def warmup_stable_decay(
  peak: NonNegativeFloat,
  end: NonNegativeFloat = 0.0,
  warmup: Length = 0.02,
  decay: Length = 0.2,
  num_steps: PositiveInt | None = None,
) -> optax.Schedule:
  """Warmup, a plateau, and a linear decay over the last `decay` (https://arxiv.org/abs/2404.06395)."""
  num_steps = _required(num_steps)
  if isinstance(warmup, float) and isinstance(decay, float) and warmup + decay > 1:
    raise UserError(f"warmup={warmup} and decay={decay} are more than the whole run")
  after_warmup = num_steps - steps_of(warmup, num_steps)
  decay_steps = max(1, min(steps_of(decay, num_steps), after_warmup))
  plateau = max(0, after_warmup - decay_steps)
  fall = optax.linear_schedule(peak, end, decay_steps)
  stable = optax.join_schedules([optax.constant_schedule(peak), fall], [plateau])
  return _warmed_up(stable, peak, warmup, num_steps)


def warmup_rsqrt(
  peak: NonNegativeFloat, warmup: Length = 0.02, num_steps: PositiveInt | None = None
) -> optax.Schedule:
  """Linear warmup, then peak * sqrt(warmup / step) (https://arxiv.org/abs/1706.03762, 5.3)."""
  steps = max(1, steps_of(warmup, _required(num_steps)))

  def after_warmup(step):  # from the end of the warmup; optax also asks for negative steps
    return peak * jnp.sqrt(steps / (jnp.maximum(step, 0) + steps))

  return _warmed_up(after_warmup, peak, steps, steps)


def warmup_exponential(
  peak: NonNegativeFloat,
  decay_rate: PositiveFraction,
  warmup: Length = 0.02,
  num_steps: PositiveInt | None = None,
) -> optax.Schedule:
  """Linear warmup, then exponential decay to peak * decay_rate at the end."""
  num_steps = _required(num_steps)
  decay_steps = max(1, num_steps - steps_of(warmup, num_steps))
  decay = optax.exponential_decay(peak, decay_steps, decay_rate)
  return _warmed_up(decay, peak, warmup, num_steps)


def _warmed_up(
  schedule: optax.Schedule, peak: float, warmup: Length, num_steps: int
) -> optax.Schedule:
  steps = steps_of(warmup, num_steps)
  if steps == 0:
    return schedule
  return optax.join_schedules([optax.linear_schedule(0.0, peak, steps), schedule], [steps])


def _required(num_steps: int | None) -> int:
  if num_steps is None:
    raise UserError("a schedule needs num_steps: set the trainer's, or the schedule's own")
  return num_steps
