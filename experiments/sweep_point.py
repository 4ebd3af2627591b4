"""Runs one point of a sweep, and saves and exits when the sweep's process is gone.

However the sweep ends, even by kill -9, the run stops as on SIGTERM.
"""

import os
import signal
import sys

from experiments import entry
from runners.processes import parent_process


def main() -> int:
  """Runs the command line while the sweep's process lives; returns the exit code."""
  parent_process.when_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))
  sys.argv[0] = "runner"  # so that the command in run.json can be typed
  return entry.main()


if __name__ == "__main__":
  sys.exit(main())
