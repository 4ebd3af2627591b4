"""Programs that take turns: each in a process of its own, idle until it is asked for steps.

A worker is a script that builds something which trains, and then calls `serve`. Its memory and
its threads are its own, so that neither what another left behind nor who came first counts.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


class Worker:
  """The other end of `serve`, in the process that measures.

  Args:
    script: in this folder.
    arguments: of its command line.
    num_cores: it is confined to that many cores where the system can do that.
  """

  def __init__(self, script: str, arguments: Sequence[str], num_cores: int):
    self._script = script
    command = [sys.executable, str(FOLDER / script), *arguments, f"--num_cores={num_cores}"]
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self.facts = self._answer()

  def steps(self, count: int) -> dict[str, Any]:
    """Trains `count` steps; losses [count] and peak memory in bytes, once they are done."""
    assert self._process.stdin is not None
    print(count, file=self._process.stdin, flush=True)
    return self._answer()

  def close(self) -> None:
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      sys.exit(f"{self._script} ended before it answered")
    return json.loads(line)


def serve(step: Callable[[int], float], facts: dict[str, Any] | None = None) -> None:
  """Says `facts`, then answers each number read with that many more steps.

  Args:
    step: takes the number of the step, from 0, and returns its loss once it is computed.
  """
  print(json.dumps(facts or {}), flush=True)
  done = 0
  for line in sys.stdin:
    losses = [step(done + i) for i in range(int(line))]
    done += len(losses)
    print(json.dumps({"losses": losses, "peak_bytes": _peak_bytes()}), flush=True)


def _peak_bytes() -> int:
  """Of the process's resident memory, from its beginning on."""
  import resource

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak


def confine(num_cores: int) -> None:
  """Leaves this process its first `num_cores` cores; to be called before it starts threads."""
  import os

  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
