"""SIGTERM and SIGINT ask the loop to save and leave; a second one leaves at once."""

import signal
from types import FrameType
from typing import Any


class Interruption:
  """Within, remembers the first signal instead of dying of it.

  Attributes:
    signal: its number, or None.
  """

  def __init__(self) -> None:
    self.signal: int | None = None
    self._previous: dict[int, Any] = {}

  @property
  def exit_code(self) -> int:
    """The shell's convention: 143 after SIGTERM, 130 after SIGINT; 0 without a signal."""
    return 0 if self.signal is None else 128 + self.signal

  def __enter__(self) -> "Interruption":
    for number in (signal.SIGTERM, signal.SIGINT):
      if signal.getsignal(number) in (signal.SIG_IGN, None):
        continue  # a process in the background is not to hear Ctrl-C
      self._previous[number] = signal.signal(number, self._remember)
    return self

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _remember(self, number: int, frame: FrameType | None) -> None:
    if self.signal is not None:
      raise KeyboardInterrupt
    self.signal = number
