"""How far something has come that takes long: a bar on a terminal, else a line now and then.

Both go to stderr. A bar comes after two seconds and is gone at the end; where stderr is a file
or a pipe, a line comes after ten seconds and then every thirty. What is done sooner is silent.
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

_shared: list[Any] = []  # the display of rich that is on the terminal: it can have but one


class Progress:
  """Work that is watched while the `with` block lasts, from a thread of its own.

      with Progress("evaluating validation", total=500, unit="batches") as progress:
        for batch in batches:
          ...
          progress.advance()

  Args:
    what: is being done.
    total: how much there is to do; None: not known, or one piece that does not say.
    unit: of `total`, in the plural.
  """

  def __init__(self, what: str, total: int | None = None, unit: str = ""):
    self._what, self._total, self._unit = what, total, unit
    self._done = 0

  def advance(self, count: int = 1) -> None:
    self._done += count

  def counting(self, function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, each call of which is one more of the total."""

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
    """120 of 500 batches, 0:31, about 1:38 left"""
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
  """3723.4 -> 1:02:03"""
  minutes, seconds = divmod(round(max(0.0, seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextlib.contextmanager
def shared(display: Any) -> Iterator[None]:
  """Within, bars are drawn in `display`, which is on the terminal and shows `task.figures`."""
  _shared.append(display)
  try:
    yield
  finally:
    _shared.remove(display)


@contextlib.contextmanager
def _display() -> Iterator[Any]:
  """What is on the terminal, or else a display for as long as there is something to show."""
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
