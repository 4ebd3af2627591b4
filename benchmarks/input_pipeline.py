"""How fast batches are made, and what a token store costs to build, to open and to mend.

python benchmarks/input_pipeline.py            about three minutes
python benchmarks/input_pipeline.py --quick    every row at its smallest size

Everything runs on the sources of the Python standard library, as bytes, in a folder that is
removed in the end. Tokens are those of whole rows [batch size x row length], which packing
fills to the last one. The loader uses one thread; with prefetch there is a second one, and the
figure is what its consumer gets that does nothing else. `taskset -c 0 python ...` confines
both to one core.

Builds run in processes of their own and include seqio's passage over the text, but not the
import of TensorFlow, which has a column of its own. A killed build is ended by SIGKILL at a
random moment after it has begun. The next process goes on behind what was committed (`kept
tokens`: all where the kill came too late); `same bytes` says whether the store that it
completed equals the one of an unbroken build.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import interleaved, print_head, print_table

from input_pipelines.loader import RowBatches
from input_pipelines.prefetch import Prefetch
from input_pipelines.token_store import CHECKSUMS, DOCUMENTS, TOKENS
from tasks import python_stdlib
from tasks.python_stdlib import PythonStdlib

# (rows of a batch, tokens of a row)
SHAPES = ((12, 64), (64, 64), (8, 1024), (64, 1024), (512, 1024))
LATER = 1_000_000

BUILD = """
import json, sys, time
start = time.perf_counter()
from tasks.python_stdlib import PythonStdlib
from input_pipelines import seqio_tasks
imported = time.perf_counter()
store = PythonStdlib(split=sys.argv[2]).store(sys.argv[1])
built = time.perf_counter()
print(json.dumps({"import_s": imported - start, "build_s": built - imported}))
"""


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--quick", action="store_true", help="smallest sizes, to see that it runs"
  )
  parser.add_argument("--kills", type=int, default=5, help="builds to kill (default: 5)")
  parser.add_argument("--repeats", type=int, default=51, help="rounds of timing (default: 51)")
  options = parser.parse_args()
  if options.quick:
    options.kills, options.repeats = 1, 1
  split = "validation" if options.quick else "train"
  print_head("numpy", "tensorflow", "seqio")
  with tempfile.TemporaryDirectory() as folder:
    data = PythonStdlib(split=split)
    builds(Path(folder), split, options.kills)
    opening(data, folder, options.repeats)
    first_batches(data, folder, options.repeats)
    loader(data, folder, options.repeats, tokens=1 << (14 if options.quick else 18))


def builds(folder: Path, split: str, kills: int) -> None:
  """An unbroken build in `folder`, and others that are killed and started again."""
  unbroken = _build(folder, split)
  store = PythonStdlib(split=split).store(str(folder))
  seconds = unbroken["build_s"]
  rates = store.num_tokens / seconds, store.num_documents / seconds
  rows: list[list[Any]] = [["unbroken", unbroken["import_s"], seconds, *rates, "", "", ""]]
  for number in range(1, kills + 1):
    cache = folder / f"killed-{number}"
    after_s = random.uniform(0, seconds)
    _kill(cache, split, after_s)
    again = _build(cache, split)
    mended = PythonStdlib(split=split).store(str(cache))
    same = all(
      (mended.path / name).read_bytes() == (store.path / name).read_bytes()
      for name in (TOKENS, DOCUMENTS, CHECKSUMS)
    )
    times = again["import_s"], again["build_s"]
    rows.append([f"after kill {number}", *times, "", "", after_s, again["kept"], _yes(same)])
  print(f"Building the token store: {store.num_documents} files, {store.num_tokens:,} tokens\n")
  header = ("build", "import s", "build s", "tokens/s", "files/s", "killed at s", "kept tokens")
  print_table((*header, "same bytes"), rows)


def opening(data: PythonStdlib, cache_dir: str, repeats: int) -> None:
  """What a start spends on a store that is there."""

  def list_sources() -> None:
    python_stdlib._sources.cache_clear()
    data.identity()

  cases: dict[str, Callable[[], Any]] = {
    "list and hash the sources": list_sources,
    "open and check the store": lambda: data.store(cache_dir),
  }
  times = interleaved(cases, repeats)
  print("Opening a store that exists\n")
  print_table(("part", "ms"), [(name, 1e3 * s) for name, s in times.items()])


def first_batches(data: PythonStdlib, cache_dir: str, repeats: int) -> None:
  """From the configuration to the first batch of a run that begins, or goes on."""

  def open_and_read(n: int) -> None:
    python_stdlib._sources.cache_clear()
    _open(data, cache_dir, 8, 1024)[n]

  cases = {f"step {n:,}": lambda n=n: open_and_read(n) for n in (0, LATER)}
  times = interleaved(cases, repeats)
  print("First batch of 8 rows of 1024, opening included\n")
  print_table(("first batch", "ms"), [(name, 1e3 * s) for name, s in times.items()])


def loader(data: PythonStdlib, cache_dir: str, repeats: int, tokens: int) -> None:
  """Batches one after another, `tokens` of them a round.

  Many short rounds rather than a few long ones: what else the machine does then falls between
  most of them.
  """
  cases: dict[str, Callable[[], Any]] = {}
  counts = {}
  for batch_size, row in SHAPES:
    batches = _open(data, cache_dir, batch_size, row)
    counts[f"{batch_size} x {row}"] = count = max(1, tokens // (batch_size * row))
    cases[f"{batch_size} x {row}"] = lambda b=batches, c=count: _read(b, c)
    cases[f"{batch_size} x {row} prefetched"] = lambda b=batches, c=count: _prefetch(b, c)
  for case in cases.values():
    case()
  times = interleaved(cases, repeats)
  rows = []
  for (batch_size, row), (name, count) in zip(SHAPES, counts.items(), strict=True):
    million = count * batch_size * row / 1e6
    alone, prefetched = times[name], times[f"{name} prefetched"]
    rows.append((name, 1e3 * alone / count, million / alone, million / prefetched))
  print("Loader\n")
  print_table(("batch", "ms", "M tokens/s", "M tokens/s prefetched"), rows)


def _open(data: PythonStdlib, cache_dir: str, batch_size: int, row: int) -> RowBatches:
  return data.open(sequence_length=row, batch_size=batch_size, cache_dir=cache_dir, seed=0)


def _read(batches: RowBatches, count: int) -> None:
  for n in range(LATER, LATER + count):
    batches[n]


def _prefetch(batches: RowBatches, count: int) -> None:
  with Prefetch(batches, start=LATER) as prefetched:
    for _ in range(count):
      next(prefetched)


def _start_build(cache: Path, split: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-c", BUILD, str(cache), split],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _build(cache: Path, split: str) -> dict[str, Any]:
  process = _start_build(cache, split)
  out, err = process.communicate()
  if process.returncode:
    sys.exit(f"the build failed:\n{err}")
  kept = re.search("going on after ([0-9,]+) tokens", err)
  return {
    "kept": kept[1] if kept else "0" if "building token store" in err else "all",
    **json.loads(out.splitlines()[-1]),
  }


def _kill(cache: Path, split: str, after_s: float) -> None:
  """Starts a build and ends it by SIGKILL `after_s` seconds after it says that it has begun."""
  process = _start_build(cache, split)
  assert process.stderr is not None
  for line in process.stderr:
    if line.startswith("building token store"):
      break
  time.sleep(after_s)
  process.kill()
  process.communicate()


def _yes(value: bool) -> str:
  return "yes" if value else "NO"


if __name__ == "__main__":
  main()
