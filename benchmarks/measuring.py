"""What the benchmarks share: alternating timings, and tables that say where they come from."""

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path


def seconds(case: Callable[[], object]) -> float:
  """Wall time of one call. What it started has to be finished when it returns."""
  start = time.perf_counter()
  case()
  return time.perf_counter() - start


def interleaved(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
  """The median seconds of each case, over `repeats` rounds in which each runs once.

  A machine that slows down for a while then slows all cases, not one of them. Whoever wants
  a warm start calls each case once before.
  """
  times: dict[str, list[float]] = {name: [] for name in cases}
  for _ in range(repeats):
    for name, case in cases.items():
      times[name].append(seconds(case))
  return {name: statistics.median(measured) for name, measured in times.items()}


def print_head(*packages: str) -> None:
  """The command, the machine and the versions of `packages`, as every table needs them."""
  versions = [f"Python {platform.python_version()}"]
  versions += [f"{package} {metadata.version(package)}" for package in packages]
  print(f"command   python {shlex.join(sys.argv)}")
  print(f"machine   {_processor()}, {_num_cores()} core(s) to run on, {platform.system()}")
  print(f"versions  {', '.join(versions)}\n", flush=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
  """A Markdown table, aligned to be read as text. Floats get three significant digits.

  The first column is flush left, the others are flush right.
  """
  cells = [list(header), *([_cell(value) for value in row] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
  for line in (cells[0], rule, *cells[1:]):
    first, *rest = line
    padded = [first.ljust(widths[0])]
    padded += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
    print(f"| {' | '.join(padded)} |")
  print(flush=True)


def _cell(value: object) -> str:
  if not isinstance(value, float):
    return str(value)
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _processor() -> str:
  """The processor's name; the kind of instructions where the system does not say."""
  cpuinfo = Path("/proc/cpuinfo")
  lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor() or platform.machine()


def _num_cores() -> int:
  """Cores that this process may use: taskset and containers leave it fewer than there are."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
