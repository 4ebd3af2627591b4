"""Starts the program, and answers Ctrl-C from the first moment.

A signal ends the process at once, which is safe because all files survive a kill. A command
with something to save or tidy up opens an Interruption of its own.
"""

import contextlib
import gc
import os
import sys

from runners.devices import absent_accelerators
from runners.processes.signals import Interruption, exit_code


def main() -> int:
  """Runs the command line on the arguments of this process; returns the exit code."""
  interruption = Interruption(at_once=True)
  interruption.__enter__()  # never left: libraries' exit handlers may be interrupted too
  absent_accelerators.leave_out()  # before jax is imported
  from experiments import command_line
  from runners.processes.simulated_devices import give_threads

  give_threads(os.environ)  # jax reads it later, when it counts its devices
  code = command_line.main()
  gc.freeze()  # at the end of the process, collecting garbage is a waste
  if code > exit_code(0):  # stopped by a signal: do not wait for threads still at work
    with contextlib.suppress(OSError):  # the pipe's reader or the terminal is gone
      sys.stdout.flush()
    os._exit(code)
  return code
