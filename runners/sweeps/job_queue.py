"""Runs commands as separate processes, a few at a time; if one dies, the others continue.

A job leads its own process group, so that Ctrl-C reaches it once, through this process. Its
standard input is a pipe that the system closes when this process ends, even by kill -9; a job
that watches it (runners/processes/parent_process.py) then ends too.
"""

import collections
import contextlib
import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from layers.errors import UserError
from runners.processes.folder_lock import is_held
from runners.processes.signals import Interruption
from runners.processes.workdir_entries import open_file

LOG_NAME = "output.log"

_POLL_S = 0.1

Event = Literal["started", "held", "ended"]


@dataclasses.dataclass(frozen=True)
class Job:
  """A command that works in `folder`, where its output goes to output.log."""

  name: str
  command: Sequence[str]
  folder: Path


class JobQueue:
  """Runs jobs in order, up to `parallel` at once, until all have ended or a signal comes.

  The signal is passed on to running jobs, which may then end by themselves; a second signal
  kills them. A job waits while another process holds its folder.

  Args:
    jobs: the commands.
    parallel: at least 1; the machine's cores are divided among so many jobs.
    env: environment of the processes.
    tell: called with (job, "started"), once with (job, "held") if it must wait, and with
      (job, "ended", exit code), which is negative after a signal.
  """

  def __init__(
    self,
    jobs: Sequence[Job],
    *,
    parallel: int,
    env: Mapping[str, str],
    tell: Callable[..., None],
  ):
    self._waiting = collections.deque(jobs)
    self._running: dict[int, tuple[Job, subprocess.Popen]] = {}  # by slot
    self._held: set[str] = set()
    self._parallel, self._env, self._tell = parallel, env, tell
    self._shares = core_shares(parallel)
    self._passed_on = False

  def run(self, interruption: Interruption) -> None:
    """Returns when no job is running; after a signal no further job is started."""
    try:
      while self._running or (self._waiting and not interruption.signal):
        if interruption.insisted:
          interruption.check()
        if interruption.signal:
          self._pass_on(interruption.signal)
        else:
          self._start()
        time.sleep(_POLL_S)
        self._collect()
    finally:
      self._kill()  # jobs are left only after a second signal or an error here

  def _start(self) -> None:
    free = [slot for slot in range(self._parallel) if slot not in self._running]
    for job in list(self._waiting):
      if not free:
        return
      if is_held(job.folder):
        if job.name not in self._held:
          self._held.add(job.name)
          self._tell(job, "held")
        continue
      self._waiting.remove(job)
      slot = free.pop(0)
      self._running[slot] = (job, self._spawn(job, slot))
      self._tell(job, "started")

  def _spawn(self, job: Job, slot: int) -> subprocess.Popen:
    flags, file = os.O_WRONLY | os.O_APPEND | os.O_CREAT, job.folder / LOG_NAME
    try:
      descriptor = open_file(file, flags)
    except OSError as error:
      raise UserError(f"cannot write {file}: {error.strerror}; make room or mend it") from error
    with open(descriptor, "ab") as log:
      process = subprocess.Popen(
        job.command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=self._env,
        process_group=0,
      )
    if self._shares:
      with contextlib.suppress(ProcessLookupError):  # dead already
        os.sched_setaffinity(process.pid, self._shares[slot])
    return process

  def _collect(self) -> None:
    for slot, (job, process) in list(self._running.items()):
      if process.poll() is not None:
        del self._running[slot]
        process.communicate()  # closes the pipe
        self._tell(job, "ended", process.returncode)

  def _pass_on(self, signal: int) -> None:
    if not self._passed_on:
      self._passed_on = True
      for _, process in self._running.values():
        process.send_signal(signal)

  def _kill(self) -> None:
    for _, process in self._running.values():
      process.kill()
      process.communicate()


def core_shares(parallel: int) -> list[set[int]] | None:
  """The cores for each of `parallel` jobs; None if there are too few or they are unknown."""
  if parallel == 1 or not hasattr(os, "sched_setaffinity"):
    return None
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) < parallel:
    return None
  bounds = [len(cores) * n // parallel for n in range(parallel + 1)]
  return [set(cores[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
