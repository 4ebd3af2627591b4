"""metrics.jsonl: one JSON object a line and a step, `{"step": 100, "train/loss": 2.31, ...}`.

Each line goes to the operating system whole, in one write, before the call returns: a killed
process loses nothing it reported and leaves no half line. Numbers are printed so that they read
back bit for bit. JSON has no word for what is not finite: those are the strings "NaN",
"Infinity" and "-Infinity", which `float()` reads.
"""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from layers.errors import UserError

FILE_NAME = "metrics.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines:
  """Writes `metrics.jsonl` in the workdir."""

  def open(self, workdir: str, num_steps: int | None) -> "JsonLinesWriter":
    del num_steps  # the file does not say where a run will end
    os.makedirs(workdir, exist_ok=True)
    return JsonLinesWriter(os.path.join(workdir, FILE_NAME))


class JsonLinesWriter:
  """Appends to the file at `path`, which is opened by the first write or by `resume`."""

  def __init__(self, path: str):
    self._path = path
    self._file: int | None = None

  def resume(self, step: int) -> None:
    """Cuts away the rows after `step` (0: all of them) and a torn last line, atomically."""
    if os.path.exists(self._path):
      rows = list(_rows(self._path))
      kept = b"".join(line for row, line in rows if 0 < step and row["step"] <= step)
      if len(kept) != os.path.getsize(self._path):
        _replace(self._path, kept)
    self._open()

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    row = {"step": step, **{name: _json_number(value) for name, value in scalars.items()}}
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    file = self._open()
    written = os.write(file, line)
    if written != len(line):  # the disk is full: no half line may stay
      os.ftruncate(file, os.fstat(file).st_size - written)
      raise OSError(f"no room left for {self._path}")

  def flush(self) -> None:
    if self._file is not None:
      os.fsync(self._file)

  def close(self) -> None:
    if self._file is not None:
      file, self._file = self._file, None
      os.fsync(file)
      os.close(file)

  def _open(self) -> int:
    if self._file is None:
      self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return self._file


def read(path: str) -> Iterator[dict[str, Any]]:
  """The rows of a metrics.jsonl, all values numbers again; a torn last line is left out."""
  for row, _ in _rows(path):
    yield {
      name: float(value) if isinstance(value, str) else value for name, value in row.items()
    }


def _rows(path: str) -> Iterator[tuple[dict[str, Any], bytes]]:
  """Each row with its line, newline included. Anything but rows of metrics is refused."""
  with open(path, "rb") as file:
    for number, line in enumerate(file, 1):
      row = _parse(line)
      if row is not None:
        yield row, line if line.endswith(b"\n") else line + b"\n"
      elif not _is_torn(line):
        raise UserError(
          f"{path}, line {number} is no row of metrics ({line[:40]!r}); move the file away or "
          "choose another --workdir"
        )


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except ValueError:  # not JSON, or not even text
    return None
  return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _is_torn(line: bytes) -> bool:
  """Whether a crash of the machine may have left this, the beginning of a row, at the end."""
  start = b'{"step": '
  return not line.endswith(b"\n") and (line.startswith(start) or start.startswith(line))


def _json_number(value: float) -> float | int | str:
  if isinstance(value, int):
    return value
  value = float(value)  # numpy and jax scalars too
  if math.isfinite(value):
    return value
  return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _replace(path: str, content: bytes) -> None:
  """Puts `content` at `path` so that a crash leaves either the old file or the new one."""
  with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.chmod(file.name, os.stat(path).st_mode)
  os.replace(file.name, path)
