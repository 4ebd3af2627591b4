"""A process that does not outlive its parent, whatever that dies of.

Its standard input is a pipe whose other end the parent holds and writes nothing to: the system
closes it however the parent ends, kill -9 included.
"""

import os
import sys
import threading
from collections.abc import Callable


def when_gone(act: Callable[[], object]) -> None:
  """Calls `act` from a thread of its own once nobody holds the other end."""

  def wait() -> None:
    while os.read(sys.stdin.fileno(), 1024):
      pass  # nothing is said on it
    act()

  threading.Thread(target=wait, daemon=True).start()
