"""Prefetch hands on every batch in order, passes errors to who asks, and leaves no thread."""

import threading
import time

import numpy as np
import pytest

from input_pipelines.prefetch import GivenUp, Prefetch


class Numbers:
  """Batch n holds n."""

  rows_per_epoch = 1

  def __init__(self, num_batches=None, fails_at=None, delay_s=0.0):
    self.num_batches = num_batches
    self.made = []
    self._fails_at = fails_at
    self._delay_s = delay_s

  def __getitem__(self, n):
    time.sleep(self._delay_s)
    if n == self._fails_at:
      raise OSError(f"batch {n} is unreadable")
    self.made.append(n)
    return {"n": np.array(n)}


def prefetch_threads():
  return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
  yield
  assert not prefetch_threads()


def test_batches_come_in_order_from_the_start_to_the_end():
  with Prefetch(Numbers(num_batches=20), start=5) as batches:
    assert [(n, int(batch["n"])) for n, batch in batches] == [(n, n) for n in range(5, 20)]


def test_nothing_is_left_to_read_after_the_end():
  with Prefetch(Numbers(num_batches=3), start=3) as batches:
    assert list(batches) == []
    assert list(batches) == []


def test_transfer_is_applied_in_the_thread():
  where = []

  def transfer(batch):
    where.append(threading.current_thread().name)
    return int(batch["n"]) * 10

  with Prefetch(Numbers(num_batches=3), transfer=transfer) as batches:
    assert [batch for _, batch in batches] == [0, 10, 20]
  assert set(where) == {"prefetch"}


def test_an_error_is_raised_when_its_batch_is_asked_for():
  with Prefetch(Numbers(fails_at=2)) as batches:
    assert [next(batches)[0], next(batches)[0]] == [0, 1]
    for _ in range(2):
      with pytest.raises(OSError, match="batch 2 is unreadable"):
        next(batches)


def test_no_more_than_depth_batches_wait():
  numbers = Numbers()
  with Prefetch(numbers, depth=3) as batches:
    deadline = time.monotonic() + 5
    while len(numbers.made) < 3 and time.monotonic() < deadline:
      time.sleep(0.001)
    time.sleep(0.05)
    assert numbers.made == [0, 1, 2]
    next(batches)


def test_the_wait_is_measured():
  with Prefetch(Numbers(delay_s=0.1), depth=1) as batches:
    next(batches)
    assert batches.last_wait_s > 0.05
    time.sleep(0.3)
    next(batches)
    assert batches.last_wait_s < 0.05


def test_an_interrupt_while_consuming_stops_the_thread():
  with pytest.raises(KeyboardInterrupt), Prefetch(Numbers()) as batches:
    next(batches)
    raise KeyboardInterrupt


def test_a_batch_that_takes_long_is_not_waited_for_once_nobody_wants_it():
  made, unwanted = threading.Event(), threading.Event()

  class Stuck(Numbers):
    def __getitem__(self, n):
      made.wait(timeout=30)
      return super().__getitem__(n)

  batches = Prefetch(Stuck(), give_up=unwanted.is_set)
  threading.Timer(0.3, unwanted.set).start()
  start = time.monotonic()
  with pytest.raises(GivenUp), batches:
    next(batches)
  assert time.monotonic() - start < 10
  made.set()
  batches._thread.join()


def test_closing_twice_is_fine_and_ends_the_iteration():
  batches = Prefetch(Numbers())
  batches.close()
  batches.close()
  assert list(batches) == []
