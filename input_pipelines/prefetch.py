"""Makes batches ahead of the training step, in a thread.

NumPy and the copy to the device release the interpreter lock, so one thread keeps ahead of any
step longer than a millisecond. `last_wait_s` is the time that the consumer waited for its last
batch: the run's data_wait.
"""

import collections
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from input_pipelines.batches import Batches

_ASKED_EVERY_S = 0.2


class GivenUp(Exception):
  """The awaited batch is no longer wanted."""


class Prefetch:
  """Iterates over (n, transfer(batches[n])) from n = `start`; ends where `batches` end.

  An exception while making batch n is raised when batch n is requested. Use it in a `with`
  block: leaving it stops the thread, at the latest after the batch in progress.
  """

  def __init__(
    self,
    batches: Batches,
    *,
    start: int = 0,
    transfer: Callable[[Any], Any] = lambda batch: batch,
    depth: int = 2,
    give_up: Callable[[], bool] = lambda: False,
  ):
    """At most `depth` batches are kept ready; `transfer` (device_put) runs in the thread.

    While the consumer waits for a batch, `give_up` is called a few times a second; once it
    returns True, `GivenUp` is raised, and `close` does not wait for the thread.
    """
    assert depth > 0
    self.last_wait_s = 0.0
    self._batches = batches
    self._transfer = transfer
    self._depth = depth
    self._give_up = give_up
    self._ready: collections.deque[tuple[int, Any]] = collections.deque()
    self._error: BaseException | None = None
    self._finished = False  # the thread adds nothing any more
    self._closed = False  # the consumer takes nothing any more
    self._changed = threading.Condition()
    # A daemon, so that an interpreter exiting without `close` does not hang.
    self._thread = threading.Thread(
      target=self._run, args=(start,), name="prefetch", daemon=True
    )
    self._thread.start()

  def __enter__(self) -> "Prefetch":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def __iter__(self) -> Iterator[tuple[int, Any]]:
    return self

  def __next__(self) -> tuple[int, Any]:
    start = time.perf_counter()
    with self._changed:
      while not self._changed.wait_for(self._has_news, timeout=_ASKED_EVERY_S):
        if self._give_up():
          raise GivenUp
      self.last_wait_s = time.perf_counter() - start
      if self._ready:
        item = self._ready.popleft()
        self._changed.notify_all()
        return item
      if self._error is not None:
        raise self._error
      raise StopIteration

  def close(self) -> None:
    """Stops the thread and drops its batches. Closing twice is fine."""
    with self._changed:
      self._closed = True
      self._ready.clear()
      self._changed.notify_all()
    self._thread.join(_ASKED_EVERY_S)
    while self._thread.is_alive() and not self._give_up():
      self._thread.join(_ASKED_EVERY_S)

  def _has_news(self) -> bool:
    return bool(self._ready) or self._finished or self._closed

  def _run(self, n: int) -> None:
    error: BaseException | None = None
    try:
      while self._batches.num_batches is None or n < self._batches.num_batches:
        with self._changed:
          self._changed.wait_for(lambda: len(self._ready) < self._depth or self._closed)
          if self._closed:
            return
        item = n, self._transfer(self._batches[n])
        with self._changed:
          if not self._closed:
            self._ready.append(item)
            self._changed.notify_all()
        n += 1
    except BaseException as raised:  # any error is raised again in the consumer
      error = raised
    finally:
      with self._changed:
        self._error = error
        self._finished = True
        self._changed.notify_all()
