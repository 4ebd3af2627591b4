"""By how much a step raises the memory of its process, each in a process of its own.

A process that measured before has freed memory that the next step takes again, and what its
compiler took stays for good: only the first step of a process tells what a step takes.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak(NamedTuple):
  """What one step took, in bytes.

  Attributes:
    measured: growth of the resident memory to its highest; None: the step was left out.
    planned: the compiler's own count, of temporaries and results.
  """

  measured: int | None
  planned: int


def in_own_process(script: str, arguments: Sequence[str]) -> Peak:
  """What `script` said with `say`, started anew with these arguments."""
  # Blocks above 64 KB are mapped one by one and returned when they are freed: none settles in
  # memory that compilation left behind.
  environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
  done = subprocess.run(
    [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, env=environment
  )
  if done.returncode:
    sys.exit(f"{Path(script).name} {' '.join(arguments)}: exit code {done.returncode}")
  return Peak(**json.loads(done.stdout.splitlines()[-1]))


def say(function: Callable, arguments: Sequence[Any], limit_bytes: float) -> None:
  """Compiles `function(*arguments)`, runs it once and prints its `Peak` for who asked.

  It does not run where the compiler's count is above `limit_bytes`.
  """
  import jax

  compiled = jax.jit(function).lower(*arguments).compile()
  analysis: Any = compiled.memory_analysis()
  planned = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
  measured = None
  if planned <= limit_bytes:
    jax.block_until_ready(arguments)
    measured = growth(lambda: jax.block_until_ready(compiled(*arguments)))
  print(json.dumps(Peak(measured, planned)._asdict()))


def growth(step: Callable[[], object]) -> int:
  """Bytes between the resident memory before `step()` and its highest during it.

  Where the system cannot set the highest back, it counts from the highest so far.
  """
  if not _CLEAR.exists():
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
  _CLEAR.write_text("5")  # proc(5): the peak becomes what is resident now
  before = _status("VmRSS")
  step()
  return _status("VmHWM") - before


def _status(name: str) -> int:
  lines = _STATUS.read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(f"{name}:"))
  return 1024 * int(line.split()[1])
