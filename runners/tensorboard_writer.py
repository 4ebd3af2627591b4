"""TensorBoard through CLU, from a thread of its own.

CLU's writer imports TensorFlow, some six seconds: the thread pays for it while training goes
on. It starts at the first write, so a run that ends before it has metrics loads no TensorFlow.
"""

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from input_pipelines.tensorflow_import import import_tensorflow
from layers.notices import note

DIRECTORY = "tensorboard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBoard:
  """Writes event files to `tensorboard/` in the workdir; without TensorFlow, one warning."""

  def open(self, workdir: str, num_steps: int | None) -> "TensorBoardWriter":
    del num_steps  # TensorBoard shows what there is
    return TensorBoardWriter(os.path.join(workdir, DIRECTORY))


class TensorBoardWriter:
  """Hands everything to a thread; `flush` and `close` wait for it.

  Its first error is logged and ends the files: training goes on without them.
  """

  def __init__(self, directory: str):
    self._directory = directory
    self._restored: int | None = None
    self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | threading.Event | None]
    self._queue = queue.SimpleQueue()
    self._thread: threading.Thread | None = None
    self._failed = False

  def resume(self, step: int) -> None:
    self._restored = step

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)
      self._thread.start()
    self._queue.put((step, {name: float(value) for name, value in scalars.items()}))

  def flush(self) -> None:
    if self._thread is not None:
      flushed = threading.Event()
      self._queue.put(flushed)
      flushed.wait()

  def close(self) -> None:
    if self._thread is not None:
      self._queue.put(None)
      self._thread.join()
      self._thread = None

  def _run(self) -> None:
    """The thread. It empties the queue to the closing None, so that nobody waits for ever."""
    writer = self._attempt(_open_clu_writer, self._directory, self._restored)
    for item in iter(self._queue.get, None):
      if isinstance(item, threading.Event):
        self._attempt(lambda: writer.flush())
        item.set()
      else:
        self._attempt(lambda row=item: writer.write_scalars(*row))
    self._attempt(lambda: writer.close())

  def _attempt(self, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function`, unless something has failed before; what fails is logged."""
    if self._failed:
      return None
    try:
      return function(*arguments)
    except Exception as error:
      self._failed = True
      note(f"TensorBoard files end here: {type(error).__name__}: {error}")
      return None


def _open_clu_writer(directory: str, restored: int | None) -> Any:
  """CLU's writer; TensorFlow sees no accelerator, and TensorBoard nothing after `restored`."""
  import_tensorflow()
  from clu import metric_writers

  if restored is not None:
    _start_after(directory, restored)
  return metric_writers.SummaryWriter(directory)


def _start_after(directory: str, step: int) -> None:
  """Hides what was written after `step`: event files cannot be cut.

  TensorBoard forgets the events from a START event's step on, at every START but the first it
  reads: so a fresh run writes one too.
  """
  from tensorboard.compat.proto import event_pb2
  from tensorboard.summary.writer.event_file_writer import EventFileWriter

  messages: Any = event_pb2  # protobuf makes the classes when it runs
  start = messages.SessionLog(status=messages.SessionLog.START)
  first_step = step + 1 if step > 0 else 0
  writer = EventFileWriter(directory)
  writer.add_event(messages.Event(step=first_step, session_log=start, wall_time=time.time()))
  writer.close()
