"""Writes metrics to several places at once: the console, metrics.jsonl, TensorBoard.

An experiment lists configs (`Console()`, `JsonLines()`, `TensorBoard()`, or any dataclass with
such an `open`); a run opens them as writers. Scalars are named `train/<metric>`,
`eval/<name>/<metric>` and `perf/<measure>`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from layers.notices import heard, note
from runners.metrics.appended_file import RecordsWait
from runners.metrics.console import Console
from runners.metrics.json_lines import JsonLines, JsonLinesWriter
from runners.metrics.media import Histogram, Image, Medium, Text
from runners.metrics.tensorboard import TensorBoard

__all__ = ["Console", "JsonLines", "MultiWriter", "TensorBoard", "Writer", "open_writers"]


class Writer(Protocol):
  """An open destination. The runner calls `resume` once, before anything else.

  A writer whose rows a restored run would not repeat may also have a method `settle`. It is
  called before each checkpoint, and raises UserError while the writer has unwritten rows.

  A writer with a place for media has the methods of CLU's MetricWriter for them: `write_texts`
  (step, name -> str), `write_images` (step, name -> [N, H, W, C] uint8) and `write_histograms`
  (step, name -> [count] numbers, name -> number of buckets), called after `write` of the step.
  """

  def resume(self, step: int) -> None:
    """Drops rows after `step`, the restored step (0, a fresh start: all rows).

    Rows of step n are written before the checkpoint of step n is saved, so they stay.
    """
    ...

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """All scalars of a step, once per step."""
    ...

  def flush(self) -> None:
    """Returns when everything written so far would survive a crash of the machine."""
    ...

  def close(self) -> None:
    """Flushes and closes. Called once, even after an error."""
    ...


class WriterConfig(Protocol):
  """An element of `Trainer.writers`."""

  def open(self, workdir: str, num_steps: int | None) -> Writer: ...


def open_writers(
  configs: Sequence[WriterConfig],
  workdir: str,
  num_steps: int | None,
  *,
  process_index: int = 0,
) -> "MultiWriter":
  """Opens `configs` on process 0; on other processes, a writer to nowhere.

  `num_steps` is the run's last step, or None if unknown.
  """
  if process_index != 0:
    return MultiWriter([])
  names = [type(config).__name__ for config in configs]
  return MultiWriter([config.open(workdir, num_steps) for config in configs], names)


class MultiWriter:
  """Writes to several writers; if one fails, it is reported and the others continue.

  A full disk does not end training. A failing writer is tried again each time, and reported
  only when it fails and when it recovers. Only `resume` and `settle` let errors through: they
  mean that the workdir is not the one the user expects, or that rows would be lost.

  When an error leaves the `with` block, closing reports nothing more.
  """

  def __init__(self, writers: Sequence[Writer], names: Sequence[str] | None = None):
    """`names` are those by which users know the writers; None: the names of their classes."""
    self._writers = tuple(writers)
    self._names = names or [type(writer).__name__ for writer in writers]
    self._failing: set[int] = set()
    self._waiting: set[int] = set()
    self._without_media: set[str] = set()

  def resume(self, step: int) -> None:
    for writer in self._writers:
      writer.resume(step)

  def settle(self) -> None:
    """Calls the writers' `settle` before a checkpoint; UserError if rows would be lost."""
    for writer in self._writers:
      if settle := getattr(writer, "settle", None):
        settle()

  def num_rows(self) -> int | None:
    """The number of rows in metrics.jsonl after `resume`; None without that writer."""
    return next((x.num_rows for x in self._writers if isinstance(x, JsonLinesWriter)), None)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    for writer in self._writers:
      with self._reported(writer, f"metrics of step {step}"):
        writer.write(step, scalars)

  def write_media(self, step: int, media: Mapping[str, Medium]) -> None:
    """To each writer what it has a place for; once, a note names those that leave some out."""
    left_out: dict[str, str] = {}  # name of a writer -> of a medium
    for writer, called in zip(self._writers, self._names, strict=True):
      with self._reported(writer, f"media of step {step}"):
        for name in _write_media(writer, step, media):
          left_out.setdefault(called, name)
    news = {
      writer: name for writer, name in left_out.items() if writer not in self._without_media
    }
    if news:
      self._without_media |= news.keys()
      who, name = " and ".join(news), next(iter(news.values()))
      note(f"media such as {name!r} are not written to {who}, where there is no place for them")

  def flush(self) -> None:
    for writer in self._writers:
      with self._reported(writer, "metrics at a flush"):
        writer.flush()

  def close(self) -> None:
    for writer in self._writers:
      with self._reported(writer, "metrics at closing"):
        writer.close()

  def __enter__(self) -> "MultiWriter":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    with heard(aloud=kind is None):
      self.close()

  @contextmanager
  def _reported(self, writer: Writer, what: str) -> Iterator[None]:
    name = type(writer).__name__
    try:
      yield
    except RecordsWait as error:  # nothing is lost so far
      if id(writer) not in self._waiting:
        note(str(error))
      self._waiting.add(id(writer))
    except Exception as error:
      if id(writer) not in self._failing:
        note(f"{name} lost {what}: {type(error).__name__}: {error}")
      self._failing.add(id(writer))
    else:
      if id(writer) in self._waiting:
        note(f"{name} writes again, and what waited too")
      self._waiting.discard(id(writer))
      if id(writer) in self._failing:
        note(f"{name} writes again, from {what} on")
      self._failing.discard(id(writer))


def _write_media(writer: Writer, step: int, media: Mapping[str, Medium]) -> list[str]:
  """Writes what the writer can, by CLU's methods; the names of the others."""
  texts = {name: x.text for name, x in media.items() if isinstance(x, Text)}
  images = {name: x.pixels for name, x in media.items() if isinstance(x, Image)}
  histograms = {name: x for name, x in media.items() if isinstance(x, Histogram)}
  arrays = {name: x.values for name, x in histograms.items()}
  num_buckets = {name: x.num_buckets for name, x in histograms.items()}
  left_out = []
  for method, named in (
    ("write_texts", (texts,)),
    ("write_images", (images,)),
    ("write_histograms", (arrays, num_buckets)),
  ):
    if named[0] and (write := getattr(writer, method, None)):
      write(step, *named)
    else:
      left_out += named[0]
  return left_out
