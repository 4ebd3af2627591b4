"""Where the program starts: Ctrl-C is answered from the first moment on.

Until a command has something to save or to tidy up, which it says with an Interruption of its
own, a signal ends the process at once: whatever is written is written so that a kill is safe.
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
  interruption.__enter__()  # to the end: what libraries do at exit may stop as well
  absent_accelerators.leave_out()  # before jax is imported
  from experiments import command_line
  from runners.processes.simulated_devices import give_threads

  give_threads(os.environ)  # jax reads it when it counts its devices, which no import does
  code = command_line.main()
  gc.freeze()  # the process ends: nothing has to be looked through for cycles
  if code > exit_code(0):  # a thread may still be making what nobody waits for any more
    with contextlib.suppress(OSError):  # its reader or its terminal has gone
      sys.stdout.flush()
    os._exit(code)
  return code
