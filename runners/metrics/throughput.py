"""The speed of training between two logs, and the share of time spent waiting for data.

Only logging waits for the device, so the clock is read only there: an interval lasts from the
arrival of one log's metrics to the arrival of the next log's.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping

_OTHER_SPEEDS = ("perf/steps_per_s", "perf/model_tflops_per_s")


@dataclasses.dataclass
class Throughput:
  """Measures the interval between logs.

  The loop calls `step(data_wait_s)` for each step and `scalars()` for each log, once its
  metrics have arrived. `pause()` and `resume()` enclose work that is not training, such as
  evaluation.
  """

  units_per_step: float  # of the global batch, padding included
  flops_per_step: int | None = None  # model FLOPs: runners/devices/flops.py
  peak_flops: float | None = None  # of all devices together; None where unknown
  units: str = "tokens"  # what is counted: `perf/<units>_per_s`
  clock: Callable[[], float] = time.perf_counter

  def __post_init__(self) -> None:
    self._paused_at: float | None = None
    self._restart(self.clock())

  def step(self, data_wait_s: float = 0.0) -> None:
    """One more step was dispatched, after waiting `data_wait_s` seconds for its batch."""
    self._steps += 1
    self._data_wait_s += data_wait_s

  def pause(self) -> None:
    """Stops the clock: the work that follows is not training."""
    if self._paused_at is None:
      self._paused_at = self.clock()

  def resume(self) -> None:
    """Restarts the clock: training continues."""
    if self._paused_at is not None:
      self._start += self.clock() - self._paused_at
      self._paused_at = None

  def scalars(self) -> dict[str, float]:
    """The `perf/...` scalars of the interval since the last call; starts the next interval.

    Unknown values are left out: `perf/mfu` if the device's peak is unknown, all of them if no
    step was taken. `perf/data_wait` is a fraction of the interval.
    """
    self.resume()
    now, steps, data_wait_s = self.clock(), self._steps, self._data_wait_s
    seconds = now - self._start
    self._restart(now)
    if not steps or seconds <= 0:
      return {}
    scalars = {
      "perf/steps_per_s": steps / seconds,
      "perf/step_ms": 1e3 * seconds / steps,
      f"perf/{self.units}_per_s": steps * self.units_per_step / seconds,
      "perf/data_wait": min(1.0, data_wait_s / seconds),
      "perf/data_wait_ms": 1e3 * data_wait_s / steps,
    }
    if self.flops_per_step is not None:
      flops_per_s = steps * self.flops_per_step / seconds
      scalars["perf/model_tflops_per_s"] = flops_per_s / 1e12
      if self.peak_flops:
        scalars["perf/mfu"] = flops_per_s / self.peak_flops
    return scalars

  def _restart(self, now: float) -> None:
    self._start, self._steps, self._data_wait_s = now, 0, 0.0


def speed(scalars: Mapping[str, float]) -> tuple[float, str] | None:
  """Units trained on in a second, and their name: (12345.0, "tokens"); None if not logged."""
  for name, value in scalars.items():
    kind, _, rest = name.partition("/")
    if kind == "perf" and rest.endswith("_per_s") and name not in _OTHER_SPEEDS:
      return value, rest.removesuffix("_per_s")
  return None
