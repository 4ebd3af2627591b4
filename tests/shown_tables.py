"""The tables that a benchmark prints, as numbers."""

import os
import subprocess
import sys

from tests.shown_commands import ROOT


def run_benchmark(script: str, *arguments: str, timeout_s: float = 300) -> str:
  """What `python benchmarks/<script>` prints; it must succeed."""
  result = subprocess.run(
    [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
    capture_output=True,
    text=True,
    timeout=timeout_s,
    env=dict(os.environ),
  )
  assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
  return result.stdout


def tables(printed: str) -> list[dict[str, dict[str, float | str]]]:
  """Each table: name of the row -> {name of the column: value}, numbers as floats."""
  found: list[dict[str, dict[str, float | str]]] = []
  columns: list[str] = []
  for line in printed.splitlines():
    if not line.startswith("| "):
      columns = []
      continue
    name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
    if not columns:
      columns = cells
      found.append({})
    elif set(name) != {"-"}:
      found[-1][name] = dict(zip(columns, map(_value, cells), strict=True))
  return found


def _value(cell: str) -> float | str:
  try:
    return float(cell.replace(",", ""))
  except ValueError:
    return cell
