"""Where the program starts: Ctrl-C is answered from the first moment on.

The command line takes a second to import. An interrupt inside an import can surface as any
error, so until all is imported it ends the process at once: there is nothing to save yet.
"""

import os
import signal
from collections.abc import Callable

INTERRUPTED = 130


def main() -> int:
  """Runs the command line on the arguments of this process; returns the exit code."""
  _on_interrupt(_leave)
  # A compiler for GPUs says on import that there are none: unless told otherwise, in silence.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
  from experiments import command_line
  from runners.simulated_devices import give_threads

  give_threads(os.environ)  # jax reads it when it counts its devices, which no import does
  try:
    _on_interrupt(signal.default_int_handler)
    return command_line.main()
  except KeyboardInterrupt:  # in the moment before its own handling of one
    return INTERRUPTED
  finally:
    _on_interrupt(_leave)  # all is done and written; what libraries do at exit may stop


def _on_interrupt(handler: Callable) -> None:
  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and `&` set it
    signal.signal(signal.SIGINT, handler)


def _leave(*_) -> None:
  os._exit(INTERRUPTED)
