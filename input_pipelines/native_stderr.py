"""Keeps TensorFlow's start-up notices off the terminal, and nothing else.

Its C++ code prints them before any setting takes effect, the absence of a GPU as an error
among them. Whatever native code says meanwhile goes to a file; what is no such notice is
passed on. Python's own messages are not held up.
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
  """Within, lines of native code on stderr are held back; notices among them are dropped."""
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
