"""Shows the progress of long work on stderr: a bar on a terminal, else occasional lines.

A bar appears after two seconds and vanishes at the end. In a file or a pipe, a line comes after
ten seconds and then every thirty. Shorter work is silent.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

_BAR_AFTER_S, _BAR_EVERY_S = 2.0, 0.2
_LINE_AFTER_S, _LINE_EVERY_S = 10.0, 30.0

_shared: list[Any] = []  # rich's display on the terminal, of which there can be only one


class Progress:
  """Work whose progress a thread shows while the `with` block lasts.

      with Progress("evaluating validation", total=500, unit="batches") as progress:
        for batch in batches:
          ...
          progress.advance()

  Args:
    what: the work, such as "importing".
    total: the number of units; None: unknown.
    unit: the unit of `total`, in the plural.
  """

  def __init__(self, what: str, total: int | None = None, unit: str = ""):
    self._what, self._total, self._unit = what, total, unit
    self._done = 0

  def advance(self, count: int = 1) -> None:
    self._done += count

  def counting(self, function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, with each call counted as one unit done."""

    def call(*arguments: Any) -> Result:
      result = function(*arguments)
      self.advance()
      return result

    return call

  def __enter__(self) -> "Progress":
    self._start = time.monotonic()
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *unused: object) -> None:
    self._over.set()
    self._thread.join()

  def _show(self) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, a closed file
      if sys.stderr.isatty():
        self._show_bar()
      else:
        self._show_lines()

  def _show_lines(self) -> None:
    wait = _LINE_AFTER_S
    while not self._over.wait(wait):
      print(f"{self._what}: {self._figures()}", file=sys.stderr, flush=True)
      wait = _LINE_EVERY_S

  def _show_bar(self) -> None:
    if self._over.wait(_BAR_AFTER_S):
      return
    with _display() as display:
      task = display.add_task("", total=self._total, figures="")
      while True:
        figures = f"{self._what}: {self._figures()}"
        display.update(task, completed=self._done, figures=figures)
        if self._over.wait(_BAR_EVERY_S):
          break
      display.remove_task(task)

  def _figures(self) -> str:
    """The figures, such as `120 of 500 batches, 0:31, about 1:38 left`."""
    seconds, parts = time.monotonic() - self._start, []
    if self._total is not None:
      parts.append(f"{self._done:,} of {self._total:,} {self._unit}".rstrip())
    elif self._done:
      parts.append(f"{self._done:,} {self._unit}".rstrip())
    parts.append(duration(seconds))
    if self._total is not None and 0 < self._done < self._total:
      parts.append(f"about {duration(seconds * (self._total / self._done - 1))} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
  """Seconds as text: 3723.4 -> 1:02:03."""
  minutes, seconds = divmod(round(max(0.0, seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextlib.contextmanager
def shared(display: Any) -> Iterator[None]:
  """Draws the bars of the `with` block in `display`, a rich Progress with `task.figures`."""
  _shared.append(display)
  try:
    yield
  finally:
    _shared.remove(display)


@contextlib.contextmanager
def _display() -> Iterator[Any]:
  """The shared display, or a temporary one."""
  if _shared:
    yield _shared[-1]
    return
  from rich import console, progress  # a tenth of a second

  columns = progress.TextColumn("{task.fields[figures]}", markup=False), progress.BarColumn(20)
  own = progress.Progress(
    *columns,
    console=console.Console(file=sys.stderr),
    redirect_stdout=sys.stdout.isatty(),
    transient=True,
  )
  with own, shared(own):
    yield own
