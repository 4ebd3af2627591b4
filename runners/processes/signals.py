"""Signals as flags that the work reads, because what a handler raises can be lost.

Python raises a handler's error in whatever the main thread is doing. A callback from C or a
destructor drops it, an import turns it into another error, and a compilation holds it up for
minutes. So a handler only notes the signal, and the work asks for it where it can stop. A
thread listens meanwhile: it answers at once, and ends a process that has nothing to save.
"""

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it


def exit_code(number: int) -> int:
  return 128 + number


def leave(number: int) -> NoReturn:
  """Ends the process as it is; whatever it writes is written so that it may be killed."""
  for terminal in (1, 2):
    with contextlib.suppress(OSError):  # closed, or gone
      if os.isatty(terminal):
        os.write(terminal, _SHOW_CURSOR)
  os._exit(exit_code(number))


def _forget_terminal() -> None:
  """Sends what is still written to a terminal that is gone nowhere, where it is no error."""
  for terminal in (1, 2):
    with contextlib.suppress(OSError):
      if stat.S_ISCHR(os.fstat(terminal).st_mode) and not os.isatty(terminal):
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)


class Interrupted(KeyboardInterrupt):
  """Work has stopped because a signal asked it to."""

  def __init__(self, number: int):
    super().__init__(f"signal {number}")
    self.exit_code = exit_code(number)


class Interruption:
  """Within, a signal does not end the process: it is noted for the work to read.

  Outside of the main thread, where Python lets nobody handle signals, nothing is noted.

  Args:
    at_once: the first signal ends the process all the same, as there is nothing to save.
    tell: called with the number of the first signal, from a thread of its own.
    insist: called so with the number of the second; None: the work reads `insisted`. Unless
      told otherwise, it ends the process.

  Attributes:
    signal: the number of the first, or None.
    insisted: whether a second has come.
  """

  def __init__(
    self,
    *,
    at_once: bool = False,
    tell: Callable[[int], object] | None = None,
    insist: Callable[[int], object] | None = leave,
  ):
    self.signal: int | None = None
    self.insisted = False
    self._at_once, self._tell, self._insist = at_once, tell, insist
    self._previous: dict[int, Any] = {}
    self._thread: threading.Thread | None = None

  @property
  def exit_code(self) -> int:
    """The shell's convention: 143 after SIGTERM, 130 after SIGINT; 0 without a signal."""
    return 0 if self.signal is None else exit_code(self.signal)

  def check(self) -> None:
    """Raises Interrupted if a signal has come: called where the work can stop."""
    if self.signal is not None:
      raise Interrupted(self.signal)

  def __enter__(self) -> "Interruption":
    if threading.current_thread() is threading.main_thread():
      reader, self._writer = os.pipe()
      os.set_blocking(self._writer, False)
      self._thread = threading.Thread(
        target=self._listen, args=(reader,), name="signals", daemon=True
      )
      self._thread.start()
      self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
      for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_IGN, None):
          continue  # a process in the background is not to hear Ctrl-C, nor one under nohup
        self._previous[number] = signal.signal(number, self._note)
    _active.append(self)
    return self

  def __exit__(self, *unused: object) -> None:
    _active.remove(self)
    if self._thread is not None:
      for number, handler in self._previous.items():
        signal.signal(number, handler)
      signal.set_wakeup_fd(self._wakeup)
      os.close(self._writer)  # which ends the thread
      self._thread.join()

  def _note(self, number: int, frame: FrameType | None) -> None:
    """The handler, in the main thread, when that comes to it."""
    self.signal = self.signal or number
    if self._at_once:
      leave(number)

  def _listen(self, reader: int) -> None:
    """The thread. The system writes the number of each signal into the pipe, at once."""
    count = 0
    with open(reader, "rb", buffering=0) as pipe:
      while numbers := pipe.read(64):
        for number in numbers:
          if number in SIGNALS:
            count += 1
            self._answer(number, count)

  def _answer(self, number: int, count: int) -> None:
    if number == signal.SIGHUP:
      _forget_terminal()
    if count == 1:
      self.signal = self.signal or number
      if self._at_once:
        leave(number)
      if self._tell is not None:
        self._tell(number)
    elif count == 2:
      self.insisted = True
      if self._insist is not None:
        self._insist(number)


_active: list[Interruption] = []


def check() -> None:
  """Raises Interrupted if a signal has come, for work that may be under an Interruption."""
  if _active:
    _active[-1].check()
