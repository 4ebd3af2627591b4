"""Rates are those of the interval between two logs, with evaluation and pauses left out."""

import pytest

from runners.metrics.throughput import Throughput


class Clock:
  """Stands still until told otherwise."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def train(meter, clock, num_steps, seconds, data_wait_s=0.0):
  for _ in range(num_steps):
    clock.now += seconds
    meter.step(data_wait_s)


def test_rates_are_of_the_interval_since_the_last_log(clock):
  meter = Throughput(1000, flops_per_step=2 * 10**12, peak_flops=16e12, clock=clock)
  train(meter, clock, 3, 7.0)
  meter.scalars()
  train(meter, clock, 10, 0.5, data_wait_s=0.1)
  assert meter.scalars() == pytest.approx(
    {
      "perf/steps_per_s": 2.0,
      "perf/step_ms": 500.0,
      "perf/tokens_per_s": 2000.0,
      "perf/data_wait": 0.2,
      "perf/data_wait_ms": 100.0,
      "perf/model_tflops_per_s": 4.0,
      "perf/mfu": 0.25,
    }
  )


def test_a_device_without_a_peak_has_no_mfu(clock):
  meter = Throughput(1000, flops_per_step=10**12, clock=clock)
  train(meter, clock, 2, 1.0)
  scalars = meter.scalars()
  assert "perf/mfu" not in scalars
  assert scalars["perf/model_tflops_per_s"] == 1.0


def test_evaluation_is_not_counted(clock):
  meter = Throughput(1000, clock=clock)
  train(meter, clock, 5, 1.0)
  meter.pause()
  clock.now += 1000.0
  meter.resume()
  train(meter, clock, 5, 1.0)
  assert meter.scalars()["perf/step_ms"] == pytest.approx(1000.0)


def test_pausing_twice_is_one_pause(clock):
  meter = Throughput(1000, clock=clock)
  train(meter, clock, 1, 1.0)
  meter.pause()
  clock.now += 5.0
  meter.pause()
  clock.now += 5.0
  meter.resume()
  meter.resume()
  assert meter.scalars()["perf/step_ms"] == pytest.approx(1000.0)


def test_a_log_without_a_step_reports_nothing(clock):
  meter = Throughput(1000, clock=clock)
  clock.now += 1.0
  assert meter.scalars() == {}
