"""`runner` as the process of one point of a sweep: it saves and leaves when the sweep is gone.

Its standard input is a pipe that the sweep holds and writes nothing to. However the sweep ends,
kill -9 included, the system closes the pipe, and the run stops as it does on SIGTERM.
"""

import os
import signal
import sys
import threading

from experiments import entry


def main() -> int:
  """Runs the command line while the pipe on standard input is open; returns the exit code."""
  threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
  sys.argv[0] = "runner"  # what run.json says of the command can be typed
  return entry.main()


def _stop_with_the_sweep() -> None:
  while os.read(sys.stdin.fileno(), 1024):
    pass  # nothing is said on it
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
  sys.exit(main())
