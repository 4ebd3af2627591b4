"""Signals as flags that the work reads, because an exception raised by a handler can be lost.

Python raises it in whatever the main thread is doing: a callback from C or a destructor drops
it, an import turns it into another error, and a compilation delays it for minutes. So a handler
only sets a flag, and the work checks it where it can stop. Meanwhile a thread listens: it tells
the user at once, and ends a process that has nothing to save.
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
  """Ends the process at once. All its files are written so that a kill does no harm."""
  for terminal in (1, 2):
    with contextlib.suppress(OSError):  # closed, or gone
      if os.isatty(terminal):
        os.write(terminal, _SHOW_CURSOR)
  os._exit(exit_code(number))


def _forget_terminal() -> None:
  """Redirects output for a vanished terminal to /dev/null, so that writing is no error."""
  for terminal in (1, 2):
    with contextlib.suppress(OSError):
      if stat.S_ISCHR(os.fstat(terminal).st_mode) and not os.isatty(terminal):
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)


class Interrupted(KeyboardInterrupt):
  """Work has stopped because of a signal."""

  def __init__(self, number: int):
    super().__init__(f"signal {number}")
    self.exit_code = exit_code(number)


class Interruption:
  """Inside this context a signal does not end the process: it sets a flag for the work to read.

  Outside the main thread Python cannot handle signals, so there it does nothing.

  Args:
    at_once: the first signal ends the process, because there is nothing to save.
    tell: called with the number of the first signal, from the listening thread.
    insist: called likewise with the number of the second signal; the default ends the process.
      None: the work reads `insisted`.

  Attributes:
    signal: the number of the first signal, or None.
    insisted: whether a second signal has come.
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
    """Raises Interrupted if a signal has come. Call it where the work can stop."""
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
          continue  # ignored on purpose: background processes and nohup
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
    """The signal handler, which Python runs late if the main thread is in C code."""
    self.signal = self.signal or number
    if self._at_once:
      leave(number)

  def _listen(self, reader: int) -> None:
    """The listening thread; the system writes each signal's number into the pipe at once."""
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
  """Raises Interrupted if the innermost Interruption, where there is one, has seen a signal."""
  if _active:
    _active[-1].check()
