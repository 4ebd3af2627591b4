"""metrics.jsonl: a line of JSON for each step, `{"step": 100, "train/loss": 2.31, ...}`.

Printed numbers read back bit for bit. JSON cannot express numbers that are not finite; they are
the strings "NaN", "Infinity" and "-Infinity", which `float()` reads. `perf/time` is the time of
writing in seconds since 1970. Like everything in `perf/`, it differs between otherwise equal
runs.
"""

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layers.errors import UserError
from layers.notices import note
from runners.metrics.appended_file import AppendedFile
from runners.processes.workdir_entries import replace_file

FILE_NAME = "metrics.jsonl"
TIME = "perf/time"
_START = b'{"step": '
# Zero bytes, perhaps between the beginning of one row and the end of another.
_HOLE = re.compile(rb'(\{"step": [^\0]*|\{[^\0]{0,8})?\0+([^\0]*\}\n)?')


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines:
  """Writes `metrics.jsonl` in the workdir."""

  def open(self, workdir: str, num_steps: int | None) -> "JsonLinesWriter":
    del num_steps  # the file does not say where a run will end
    os.makedirs(workdir, exist_ok=True)
    return JsonLinesWriter(os.path.join(workdir, FILE_NAME))


class JsonLinesWriter:
  """Appends to the file at `path`.

  Attributes:
    num_rows: in the file, after `resume`.
  """

  def __init__(self, path: str, clock: Callable[[], float] = time.time):
    self._path = path
    self._clock = clock
    self._file = AppendedFile(path)
    self.num_rows = 0

  def resume(self, step: int) -> None:
    """Removes rows after `step` (0: all rows) and a torn last line, atomically.

    If a step occurs twice, say in a file merged by hand, the first row stays.
    """
    if os.path.exists(self._path):
      rows: dict[int, bytes] = {}
      for row, line in _rows(self._path):
        rows.setdefault(row["step"], line)
      kept = [line for at, line in rows.items() if 0 < step and at <= step]
      self.num_rows = len(kept)
      content = b"".join(kept)
      if len(content) != os.path.getsize(self._path):
        replace_file(Path(self._path), content)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    numbers = {name: _json_number(value) for name, value in scalars.items()}
    row = {"step": step, **numbers, TIME: round(self._clock(), 3)}
    self._file.append(json.dumps(row, allow_nan=False).encode() + b"\n")

  def flush(self) -> None:
    self._file.flush()

  def settle(self) -> None:
    """Writes waiting rows before a checkpoint; a run restored from it would not repeat them.

    Raises:
      UserError: they cannot be written.
    """
    try:
      self._file.settle()
    except OSError as error:
      raise UserError(
        f"cannot write {self._path}: {error.strerror}; make room or mend the folder, and give "
        "the same command again: it makes the steps since the last checkpoint anew"
      ) from error

  def close(self) -> None:
    self._file.close()


def read(path: str) -> Iterator[dict[str, Any]]:
  """The rows of a metrics.jsonl with numbers as values, without a torn last line."""
  for row, _ in _rows(path):
    yield {
      name: float(value) if isinstance(value, str) else value for name, value in row.items()
    }


def _rows(path: str) -> Iterator[tuple[dict[str, Any], bytes]]:
  """Each row with its line, newline included. A line that is no row of metrics is refused.

  Zero bytes are skipped: a power cut leaves them in place of lines that never reached the disk.
  """
  try:
    with open(path, "rb") as file:
      for number, line in enumerate(file, 1):
        whole = line.lstrip(b"\0")
        row = _parse(whole)
        if row is not None:
          yield row, whole if whole.endswith(b"\n") else whole + b"\n"
        elif _HOLE.fullmatch(line):
          note(f"{path}, line {number} never reached the disk, as after a power cut: left out")
        elif not _is_torn(line):
          raise UserError(
            f"{path}, line {number} is no row of metrics ({line[:40]!r}); move the file away "
            "or choose another --workdir"
          )
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):  # not JSON, or not even text
    return None
  return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _is_torn(line: bytes) -> bool:
  """Whether a line is the beginning of a row, as a crash may leave at the end of the file."""
  return not line.endswith(b"\n") and (line.startswith(_START) or _START.startswith(line))


def _json_number(value: float) -> float | int | str:
  if isinstance(value, int):
    return value
  value = float(value)  # numpy and jax scalars too
  if math.isfinite(value):
    return value
  return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
