"""Keeps TensorFlow's start-up notices, and nothing else, off the terminal.

Its C++ code prints them before any setting takes effect, and reports a missing GPU as an error.
Meanwhile stderr of native code goes to a file, from which all other lines are then passed on.
Python's own messages are not delayed.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_NOTICE = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IWE]0000 00:00:")


@contextlib.contextmanager
def without_startup_notices() -> Iterator[None]:
  """Holds back native code's stderr during the `with` block, then drops the notices in it."""
  terminal = os.dup(2)
  python_stderr = sys.stderr
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(terminal), "wb", 0), write_through=True)
    try:
      yield
    finally:
      sys.stderr = python_stderr
      os.dup2(terminal, 2)
      held.seek(0)
      for line in held:
        if not _NOTICE.match(line):
          os.write(terminal, line)
      os.close(terminal)
