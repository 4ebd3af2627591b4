"""Lets a child process notice that its parent has died, even by kill -9.

The child's standard input is a pipe. The parent holds the other end and writes nothing; the
system closes it when the parent ends.
"""

import os
import sys
import threading
from collections.abc import Callable


def when_gone(act: Callable[[], object]) -> None:
  """Calls `act`, from a new thread, once the parent is gone."""

  def wait() -> None:
    while os.read(sys.stdin.fileno(), 1024):
      pass  # the parent writes nothing
    act()

  threading.Thread(target=wait, daemon=True).start()
