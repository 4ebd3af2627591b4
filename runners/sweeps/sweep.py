"""Runs the points of a sweep, each in its own process and workdir, and keeps their table.

    <folder>/
      sweep.csv            a row for each point, rewritten whenever one starts or ends
      <point>/             the workdir of a run like any other, named by a hash of its config
      <point>/output.log   the output of all its starts

What is finished is read from run.json, so a sweep that is started again does what is left. A
point whose folder was run with another config, or with other defaults, fails alone: its result
is not that of the values in its row.
"""

import contextlib
import dataclasses
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path

import fiddle as fdl

from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.checkpoints.origin import recorded_config
from runners.configs import files as config_files
from runners.configs.placement import is_placement, trainer_field
from runners.configs.tree import flatten
from runners.processes.folder_lock import hold
from runners.processes.signals import Interruption
from runners.sweeps.job_queue import LOG_NAME, Event, Job, JobQueue, core_shares
from runners.sweeps.table import (
  CHANGED,
  FINISHED,
  TABLE_NAME,
  Row,
  measured,
  print_table,
  ranked,
  read_table,
  short_names,
  write_table,
)

# Exit codes of a run that a signal stopped, before or after it could save.
_STOPPED = (129, 130, 143, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class SweepPoint:
  """One run of a sweep: its folder's name, the swept values, its config and its command."""

  name: str
  values: dict[str, str]
  config: fdl.Config
  command: Sequence[str]


def run_sweep(
  points: Sequence[SweepPoint],
  *,
  exp: str,
  folder: Path,
  parallel: int,
  metric: str,
  mode: str,
) -> int:
  """Runs unfinished points, up to `parallel` at once, then prints the table.

  Args:
    points: all runs of the sweep.
    exp: the experiment's name.
    folder: the sweep's folder.
    parallel: at least 1.
    metric, mode: the table's sort key, and whether "min" or "max" is best.

  Returns:
    0 if all points are finished, 1 if one is not, 128 + n after signal n.

  Raises:
    UserError: the folder cannot be used, or another sweep is running in it.
  """
  with contextlib.closing(hold(folder)):
    sweep = _Sweep(points, exp, folder, metric, mode)
    interruption = Interruption(insist=None)  # the queue kills its jobs; then the table prints
    try:
      with interruption:
        sweep.run(parallel, interruption)
    finally:
      sweep.report()
    return interruption.exit_code or (1 if sweep.unfinished() else 0)


class _Sweep:
  """The rows of a running sweep: its own points, then those of earlier sweeps in the folder."""

  def __init__(
    self, points: Sequence[SweepPoint], exp: str, folder: Path, metric: str, mode: str
  ):
    self._points = {point.name: point for point in points}
    self._folder, self._metric, self._mode = folder, metric, mode
    earlier = [row for row in read_table(folder) if self._is_other_run(row.point)]
    conflicts = {point.name: _conflict(point, folder / point.name) for point in points}
    self._conflicts = {name: conflict for name, conflict in conflicts.items() if conflict}
    for point in points:
      if not (folder / point.name / config_files.JSON_NAME).exists():
        config_files.save(point.config, exp, folder / point.name)
    status = lambda name: CHANGED if name in self._conflicts else "waiting"
    asked = (Row(point.name, point.values, status(point.name)) for point in points)
    rows = [*asked, *earlier]
    self._rows = {row.point: measured(row, folder) for row in self._completed(rows)}
    self._write()
    done = len(points) - len(self.unfinished())
    ready = f", {done} finished already" if done else ""
    print(f"sweep     {_count(points)} of {exp} in {folder}{ready}", flush=True)
    for name, conflict in self._conflicts.items():
      print(f"{CHANGED:9} {self._title(name)}  {conflict}", flush=True)

  def run(self, parallel: int, interruption: Interruption) -> None:
    jobs = [
      Job(name, self._points[name].command, self._folder / name)
      for name in self.unfinished()
      if name not in self._conflicts
    ]
    parallel = max(1, min(parallel, len(jobs)))
    if parallel > 1:
      shares = core_shares(parallel)
      cores = f"{len(shares[0])} of the cores each" if shares else "all on the same cores"
      print(f"parallel  {parallel} points at a time, {cores}", flush=True)
    # The points' processes find the same modules as this one.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    # Unbuffered, so that a log has all output in order, before the error that ended the point.
    env = {"PYTHONUNBUFFERED": "1", **os.environ, "PYTHONPATH": path}
    JobQueue(jobs, parallel=parallel, env=env, tell=self._tell).run(interruption)

  def unfinished(self) -> list[str]:
    """The names of this sweep's points that are not finished."""
    return [name for name in self._points if self._rows[name].status != FINISHED]

  def report(self) -> None:
    """Prints the table, the errors, and the number of points left."""
    rows = ranked(self._rows.values(), self._metric, self._mode)
    print_table(rows, self._metric)
    print(f"table     {self._folder / TABLE_NAME}", flush=True)
    known = {name for row in rows if row.status == FINISHED for name in row.scalars}
    if known and self._metric not in known:
      print(
        f"runner: warning: no point has {self._metric}: {did_you_mean(self._metric, known)}",
        file=sys.stderr,
      )
    for name in self._points:
      if name in self._conflicts:
        print(f"runner: {self._title(name)}: {self._conflicts[name]}", file=sys.stderr)
      elif self._rows[name].status == "failed":
        log = self._folder / name / LOG_NAME
        print(f"runner: {self._title(name)} failed; see {log}", file=sys.stderr)
    if left := self.unfinished():
      print(
        f"runner: {len(left)} of {_count(self._points)} not finished; the same command goes on",
        file=sys.stderr,
      )

  def _is_other_run(self, name: str) -> bool:
    return name not in self._points and (self._folder / name / config_files.JSON_NAME).exists()

  def _completed(self, rows: Sequence[Row]) -> Iterator[Row]:
    """Rows with a value for every path that any row sweeps, taken from configs if missing."""
    paths = dict.fromkeys(path for row in rows for path in row.values)
    for row in rows:
      missing = [path for path in paths if path not in row.values]
      held = self._held(row) if missing else {}
      values = {path: row.values.get(path) or held.get(path, "") for path in paths}
      status = "stopped" if row.status == "running" else row.status
      yield dataclasses.replace(row, values=values, status=status)

  def _held(self, row: Row) -> dict[str, str]:
    """Path -> value from the row's config; empty if its folder holds another config."""
    if row.point in self._points:
      return flatten(self._points[row.point].config)
    if row.status == CHANGED:
      return {}
    return recorded_config(self._folder / row.point).fields()

  def _tell(self, job: Job, event: Event, code: int = 0) -> None:
    """Records an event of a point, and prints a line about it."""
    if event == "held":
      print(f"waiting   {self._title(job.name)}  for the process that runs there", flush=True)
      return
    status, remark = "running", ""
    if event == "ended":
      status, remark = _ending(code, job.folder)
    row = measured(dataclasses.replace(self._rows[job.name], status=status), self._folder)
    if row.status == FINISHED:
      value = row.scalars.get(self._metric, math.nan)
      remark = f"{self._metric} {value:.4f}, {row.seconds:.1f} s"
    self._rows[job.name] = row
    self._write()
    word = "started" if event == "started" else row.status
    print(f"{word:9} {self._title(job.name)}  {remark}".rstrip(), flush=True)

  def _title(self, name: str) -> str:
    values = self._points[name].values
    labels = zip(short_names(list(values)), values.values(), strict=True)
    swept = " ".join(f"{label}={value}" for label, value in labels)
    return f"{list(self._points).index(name) + 1}/{len(self._points)} {name}  {swept}"

  def _write(self) -> None:
    rows = ranked(self._rows.values(), self._metric, self._mode)
    write_table(self._folder, rows, self._metric)


def _conflict(point: SweepPoint, workdir: Path) -> str:
  """Why what is in the point's folder is no run of its config, and the cure; "" if it is.

  Where and in which portions a run computes may differ, but for what the sweep itself varies.
  """
  if not (workdir / config_files.JSON_NAME).exists():
    return ""
  cure = "move the folder away to run the point"
  try:
    recorded = recorded_config(workdir)
  except UserError as error:
    return f"{error}; {cure}"
  swept = {trainer_field(path) for path in point.values}
  changes = [
    change
    for change in config_files.changes_since(recorded.fields(), point.config)
    if trainer_field(change.path) in swept or not is_placement(change.path)
  ]
  listed = "; ".join(change.here_and_there() for change in changes)
  return f"{workdir} was run with another config ({listed}); {cure}" if changes else ""


def _ending(code: int, workdir: Path) -> tuple[str, str]:
  """Status and reason of a run that ended without finishing."""
  if code in _STOPPED:
    return "stopped", ""
  if code < 0:
    return "failed", f"killed by signal {-code}"
  return "failed", _last_line(workdir / LOG_NAME) or f"exit code {code}"


def _count(points: Sized) -> str:
  return f"{len(points)} point{'' if len(points) == 1 else 's'}"


def _last_line(file: Path) -> str:
  """The last line of a log that is not blank: the error, if there was one."""
  with open(file, "rb") as log:
    log.seek(max(0, os.path.getsize(file) - 4096))
    lines = log.read().decode(errors="replace").split("\n")
  return next((line.strip() for line in reversed(lines) if line.strip()), "")
