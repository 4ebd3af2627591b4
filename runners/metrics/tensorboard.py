"""TensorBoard's event files, by TensorBoard's own package and without TensorFlow.

An event holds the time of logging and all scalars of a step as plain numbers, which TensorBoard
shows and `EventAccumulator.Scalars()` finds. CLU's writer makes tensors instead, which few
tools read, and stamps them with the time at which its queue reaches them.
"""

import dataclasses
import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from layers.notices import note
from runners.metrics.appended_file import AppendedFile

DIRECTORY = "tensorboard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorBoard:
  """Writes event files to `tensorboard/` in the workdir; a note if the package is missing."""

  def open(self, workdir: str, num_steps: int | None) -> "TensorBoardWriter":
    del num_steps  # TensorBoard needs no end
    return TensorBoardWriter(os.path.join(workdir, DIRECTORY))


class TensorBoardWriter:
  """A file of events in `directory`, created by the first row.

  Event files cannot be shortened. At every START event except the first it reads, TensorBoard
  drops earlier events from that step on. So each file, even a fresh run's, begins with a START.
  """

  def __init__(self, directory: str, clock: Callable[[], float] = time.time):
    self._directory, self._clock = directory, clock
    self._restored: int | None = None
    self._file: AppendedFile | None = None
    try:
      from tensorboard.compat.proto import event_pb2, summary_pb2
      from tensorboard.plugins.histogram.summary_v2 import histogram_pb
      from tensorboard.plugins.text.summary_v2 import text_pb
    except ImportError as error:
      note(f"tensorboard/ is not written, as TensorBoard is not there: {error}")
      self._events: Any = None
    else:
      self._events, self._summaries = event_pb2, summary_pb2
      self._text, self._histogram = text_pb, histogram_pb

  def resume(self, step: int) -> None:
    self._restored = step

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    if self._events is None:
      return
    values = [
      self._summaries.Summary.Value(tag=name, simple_value=float(value))
      for name, value in scalars.items()
    ]
    self._add(step, self._summaries.Summary(value=values))

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    if self._events is not None:
      for name, text in texts.items():
        self._add(step, self._text(name, text))

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Each [N, H, W, C] uint8, C 1, 3 or 4: all N beside each other under one name."""
    if self._events is not None:
      for name, pixels in images.items():
        self._add(step, self._image(name, pixels))

  def write_histograms(
    self, step: int, arrays: Mapping[str, np.ndarray], num_buckets: Mapping[str, int]
  ) -> None:
    if self._events is not None:
      for name, values in arrays.items():
        self._add(step, self._histogram(name, values, num_buckets[name]))

  def flush(self) -> None:
    if self._file is not None:
      self._file.flush()

  def close(self) -> None:
    if self._file is not None:
      self._file.close()

  def _add(self, step: int, summary: Any) -> None:
    if self._file is None:
      self._file = self._begin()
    self._append(step=step, summary=summary)

  def _image(self, name: str, pixels: np.ndarray) -> Any:
    """What `tf.summary.image` writes, without TensorFlow: width, height and each as PNG."""
    from PIL import Image
    from tensorboard.plugins.image import metadata
    from tensorboard.util import tensor_util

    _, height, width, _ = pixels.shape
    strings = [str(width).encode(), str(height).encode()]
    for one in pixels:
      png = io.BytesIO()
      Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one).save(png, "PNG")
      strings.append(png.getvalue())
    value = self._summaries.Summary.Value(
      tag=name,
      metadata=metadata.create_summary_metadata(display_name=None, description=None),
      tensor=tensor_util.make_tensor_proto(strings, dtype=np.object_),
    )
    return self._summaries.Summary(value=[value])

  def _begin(self) -> AppendedFile:
    now = self._clock()
    # The usual name of event files, made unique by time, host and process.
    name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
    self._file = AppendedFile(os.path.join(self._directory, name))
    self._append(file_version="brain.Event:2")
    if self._restored is not None:
      start = self._events.SessionLog(status=self._events.SessionLog.START)
      self._append(step=self._restored + 1 if self._restored else 0, session_log=start)
    return self._file

  def _append(self, **event: Any) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    assert self._file is not None
    record = io.BytesIO()
    message = self._events.Event(wall_time=self._clock(), **event)
    RecordWriter(record).write(message.SerializeToString())
    self._file.append(record.getvalue())
