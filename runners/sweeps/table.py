"""The table of a sweep: a row for each point, made from the runs' records, in sweep.csv."""

import csv
import dataclasses
import io
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from layers.errors import UserError
from layers.notices import note
from runners.metrics import json_lines
from runners.processes.workdir_entries import replace_file
from runners.workdir import read_starts

TABLE_NAME = "sweep.csv"
FINISHED = "finished"
CHANGED = "changed"

_LOSS = "train/loss"


@dataclasses.dataclass(frozen=True)
class Row:
  """A point: its folder's name, its swept values, and its progress.

  Attributes:
    values: swept path -> value as typed.
    status: finished, failed, stopped (by a signal), running, waiting, or changed (its folder
      was run with another config, so its results do not belong to these values).
    steps: steps done; seconds: of all starts that were not killed.
    scalars: metric -> last value.
  """

  point: str
  values: dict[str, str]
  status: str = "waiting"
  steps: int = 0
  seconds: float = 0.0
  scalars: dict[str, float] = dataclasses.field(default_factory=dict)


def measured(row: Row, folder: Path) -> Row:
  """The row with status, steps, seconds and scalars from the records of `folder`/<point>.

  A row with status CHANGED is returned as it is.
  """
  if row.status == CHANGED:
    return row
  workdir = folder / row.point
  ends = [start["ended"] for start in read_starts(workdir) if "ended" in start]
  scalars = _last_scalars(workdir / json_lines.FILE_NAME)
  return dataclasses.replace(
    row,
    status=FINISHED if is_finished(workdir) else row.status,
    steps=int(scalars.pop("step", 0)),
    seconds=sum(end["seconds"] for end in ends),
    scalars=scalars,
  )


def is_finished(workdir: Path) -> bool:
  """Whether the newest start of a run reached its last step or was stopped by a callback."""
  starts = read_starts(workdir)
  return bool(starts) and starts[-1].get("ended", {}).get("finished", False)


def _last_scalars(file: Path) -> dict[str, float]:
  """The last value of every name in a metrics.jsonl, "step" among them."""
  last: dict[str, float] = {}
  try:
    for row in json_lines.read(str(file)) if file.exists() else ():
      last |= row
  except UserError as error:  # the run itself refuses such a file when it is started again
    note(str(error))
  return last


def ranked(rows: Iterable[Row], metric: str, mode: str) -> list[Row]:
  """Finished points, the best `metric` first, then the others in their given order."""
  sign = 1 if mode == "min" else -1

  def rank(row: Row) -> tuple[bool, bool, float]:
    value = row.scalars.get(metric, math.nan)
    unknown = math.isnan(value)
    return row.status != FINISHED, unknown, 0.0 if unknown else sign * value

  return sorted(rows, key=rank)


def read_table(folder: Path) -> list[Row]:
  """The points and values that an earlier start wrote to sweep.csv; [] if there is none."""
  file = folder / TABLE_NAME
  if not file.exists():
    return []
  with open(file, newline="", encoding="utf-8") as text:
    reader = csv.DictReader(text)
    names = list(reader.fieldnames or ())
    if names[:2] != ["point", "status"] or "steps" not in names:
      raise UserError(
        f"{file} is no table of a sweep; move it away, or choose another --workdir"
      )
    paths = names[2 : names.index("steps")]
    return [
      Row(entry["point"], {path: entry[path] for path in paths if entry[path]}, entry["status"])
      for entry in reader
    ]


def write_table(folder: Path, rows: Sequence[Row], metric: str) -> None:
  """Replaces sweep.csv. A crash leaves the old or the new file; a full disk causes a note."""
  paths = list(dict.fromkeys(path for row in rows for path in row.values))
  found = dict.fromkeys(name for row in rows for name in row.scalars)
  shown = [name for name in found if name.startswith("eval/") and name != metric]
  metrics = list(dict.fromkeys((_LOSS, metric, *shown)))
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["point", "status", *paths, "steps", "seconds", *metrics])
  for row in rows:
    values = [row.values.get(path, "") for path in paths]
    scalars = [repr(row.scalars[name]) if name in row.scalars else "" for name in metrics]
    writer.writerow([row.point, row.status, *values, row.steps, f"{row.seconds:.1f}", *scalars])
  try:
    replace_file(folder / TABLE_NAME, text.getvalue())
  except OSError as error:  # no loss: the table can be made again from the runs' records
    note(f"{folder / TABLE_NAME} cannot be written: {error.strerror}; it stays as it was")


def print_table(rows: Sequence[Row], metric: str) -> None:
  """Prints the table: fitted to a terminal, otherwise plain and in full width."""
  from rich import box, console, table, text

  paths = list(dict.fromkeys(path for row in rows for path in row.values))
  metrics = list(dict.fromkeys((_LOSS, metric)))
  live = sys.stdout.isatty()
  grid = table.Table(box=box.SIMPLE_HEAD if live else None, pad_edge=False)
  for name in ("point", *short_names(paths), "status"):
    grid.add_column(text.Text(name), no_wrap=name == "point", overflow="fold")
  for name in ("steps", *metrics, "seconds"):
    header = name.replace("/", "/\n") if live else name
    grid.add_column(text.Text(header), justify="right", overflow="fold")
  for row in rows:
    values = [row.values.get(path, "") for path in paths]
    scalars = [f"{row.scalars[name]:.4f}" if name in row.scalars else "-" for name in metrics]
    cells = [row.point, *values, row.status, str(row.steps), *scalars, f"{row.seconds:.1f}"]
    grid.add_row(*map(text.Text, cells))
  if live:
    console.Console(file=sys.stdout).print(grid)
    return
  plain = io.StringIO()
  console.Console(file=plain, width=10_000).print(grid)
  print("\n".join(line.rstrip() for line in plain.getvalue().splitlines()))


def short_names(paths: Sequence[str]) -> list[str]:
  """The shortest endings of the paths that are all different."""
  parts = [path.split(".") for path in paths]
  for length in range(1, max(map(len, parts), default=0) + 1):
    names = [".".join(part[-length:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  return list(paths)
