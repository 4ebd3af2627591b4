"""Processes that begin with the libraries imported: each is a fork of one that did no more.

Importing jax, TensorFlow and seqio takes five seconds of CPU, more than most of the code that a
test runs in a process of its own. No device has been asked for when the fork is made, so that
the flags of XLA, and their number of devices, are still the process's to choose. How a process
of the user's begins is for the tests that start one (`python -m experiments`).
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.imported_beforehand"])

# Used by the processes that have ended; they are no children of this one.
seconds = {"of CPU": 0.0}

# What jax reads from the environment when it is imported, which was before the fork.
_JAX_READS = {
  "JAX_COMPILATION_CACHE_DIR": str,
  "JAX_DISABLE_MOST_OPTIMIZATIONS": lambda text: text == "1",
}


def run(
  code: str, environment: dict[str, str], folder: Path, timeout_s: float
) -> subprocess.CompletedProcess:
  """What `python -c code` in `folder` returned and printed, with this environment alone.

  Raises:
    subprocess.TimeoutExpired: it took longer, and was killed.
  """
  with tempfile.TemporaryDirectory() as outputs:
    printed, said = Path(outputs, "printed"), Path(outputs, "said")
    used = Path(outputs, "used")
    arguments = (code, environment, str(folder), str(used), str(printed), str(said))
    process = _processes.Process(target=_execute, args=arguments)
    process.start()
    process.join(timeout_s)
    late = process.exitcode is None
    if late:
      process.kill()
      process.join()
    if used.exists():
      seconds["of CPU"] += float(used.read_text())
    texts = printed.read_text(), said.read_text()
  if late:
    raise subprocess.TimeoutExpired(code, timeout_s, *texts)
  return subprocess.CompletedProcess(code, process.exitcode, *texts)


def _execute(
  code: str, environment: dict[str, str], folder: str, used: str, *outputs: str
) -> None:
  for number, path in enumerate(outputs, start=1):
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
  os.chdir(folder)
  sys.path.insert(0, "")  # this folder, as for `python -c` and `python -m`
  os.environ.clear()
  os.environ.update(environment)
  import jax  # imported already

  for name, read in _JAX_READS.items():
    if name in environment:
      jax.config.update(name.lower(), read(environment[name]))
  try:
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
  finally:
    Path(used).write_text(str(time.process_time()))
