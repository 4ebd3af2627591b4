"""`runner` as the process of one point of a sweep: it saves and leaves when the sweep is gone.

However the sweep ends, kill -9 included, the run stops as it does on SIGTERM.
"""

import os
import signal
import sys

from experiments import entry
from runners.processes import parent_process


def main() -> int:
  """Runs the command line while the sweep is there; returns the exit code."""
  parent_process.when_gone(lambda: os.kill(os.getpid(), signal.SIGTERM))
  sys.argv[0] = "runner"  # what run.json says of the command can be typed
  return entry.main()


if __name__ == "__main__":
  sys.exit(main())
