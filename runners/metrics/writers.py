"""Where metrics go: to the console, to metrics.jsonl and to TensorBoard, at the same time.

An experiment lists configs (`Console()`, `JsonLines()`, `TensorBoard()`, or anybody's dataclass
with the same `open`); a run opens them into writers. Scalars are named `train/<metric>`,
`eval/<name>/<metric>` and `perf/<measure>`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from layers.notices import heard, note
from runners.metrics.appended_file import RecordsWait
from runners.metrics.console import Console
from runners.metrics.json_lines import JsonLines, JsonLinesWriter
from runners.metrics.tensorboard import TensorBoard

__all__ = ["Console", "JsonLines", "MultiWriter", "TensorBoard", "Writer", "open_writers"]


class Writer(Protocol):
  """An open destination. The runner calls `resume` once, before anything else.

  One whose rows a restored run would not make again may have a method `settle` as well, called
  before each checkpoint, which raises UserError while it has rows that it cannot write.
  """

  def resume(self, step: int) -> None:
    """Drops what was written after `step`, the step restored from; 0, a fresh start: all of it.

    Rows of step n must have been written before the checkpoint of step n is saved: they stay.
    """
    ...

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """All scalars of a step, once per step."""
    ...

  def flush(self) -> None:
    """Returns when everything written so far would survive the machine."""
    ...

  def close(self) -> None:
    """Flushes and lets go. Called once, also after an error."""
    ...


class WriterConfig(Protocol):
  """What `Trainer.writers` lists."""

  def open(self, workdir: str, num_steps: int | None) -> Writer: ...


def open_writers(
  configs: Sequence[WriterConfig],
  workdir: str,
  num_steps: int | None,
  *,
  process_index: int = 0,
) -> "MultiWriter":
  """Opens `configs` on process 0; on every other one, a writer to nowhere.

  `num_steps` is where the run will end, None when nobody knows.
  """
  if process_index != 0:
    return MultiWriter([])
  return MultiWriter([config.open(workdir, num_steps) for config in configs])


class MultiWriter:
  """Writes to several at once. One that fails is reported and keeps no other from its data.

  A full disk ends no training. A failing writer is tried again each time; it is reported when
  it fails and when it recovers, not at every step in between. `resume` and `settle` alone let
  errors through: there they mean that the workdir is not what the user thinks it is, or that
  rows would be lost.

  Leaving it by an error closes all in silence: the error has been the cause.
  """

  def __init__(self, writers: Sequence[Writer]):
    self._writers = tuple(writers)
    self._failing: set[int] = set()
    self._waiting: set[int] = set()

  def resume(self, step: int) -> None:
    for writer in self._writers:
      writer.resume(step)

  def settle(self) -> None:
    """Before a checkpoint: UserError where a writer that has such a method needs its rows."""
    for writer in self._writers:
      if settle := getattr(writer, "settle", None):
        settle()

  def num_rows(self) -> int | None:
    """How many rows metrics.jsonl had after `resume`; None without such a writer."""
    return next((x.num_rows for x in self._writers if isinstance(x, JsonLinesWriter)), None)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    for writer in self._writers:
      with self._reported(writer, f"metrics of step {step}"):
        writer.write(step, scalars)

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
