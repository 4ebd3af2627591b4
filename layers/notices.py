"""Messages to the user when nothing failed: `note: ...` on stderr, once for each text.

All messages of this code, as opposed to libraries' logs, go through here.
"""

import contextlib
import sys
from collections.abc import Iterator

_said: set[str] = set()  # in this process
_listeners: list[list[str]] = []
_silent: list[bool] = []  # an entry for each reason not to print


def note(text: str) -> None:
  """Prints `note: <text>`, unless this process has printed it already.

  Use it for facts that the user may want to change, or would be surprised by later. If a note
  cannot be written (closed terminal, full disk), that is ignored.
  """
  text = " ".join(text.splitlines())
  remark(text)
  if not _silent and text not in _said:
    _said.add(text)
    with contextlib.suppress(OSError, ValueError):
      print(f"note: {text}", file=sys.stderr, flush=True)


def remark(text: str) -> None:
  """Records a text for `heard` without printing it: a normal choice, such as the core taken."""
  for listener in _listeners:
    listener.append(text)


@contextlib.contextmanager
def heard(*, aloud: bool = True) -> Iterator[list[str]]:
  """Collects the notes and remarks of all threads; unless `aloud`, none is printed."""
  listener: list[str] = []
  _listeners.append(listener)
  if not aloud:
    _silent.append(True)
  try:
    yield listener
  finally:
    _listeners[:] = [other for other in _listeners if other is not listener]
    if not aloud:
      _silent.pop()
