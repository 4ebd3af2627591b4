"""The time and memory of a training step, beside the same GPT in PyTorch.

python benchmarks/train_step.py            about ten minutes; needs the extra `bench` (PyTorch)
python benchmarks/train_step.py --quick    every row at its smallest size

Both train the same model from the same parameters on the same batches: 4 layers of width 128
on 12 rows of 64 characters, and 6 layers of width 384 on 16 rows of 256, on one core and on
all. Each program has a process of its own, and they take turns, a few steps each, so that a
machine that slows down slows all of them. Times are medians over the turns, without what
compiles.

  x PyTorch  PyTorch's time in float32 over this program's; above 1 is faster
  x autocast the same against PyTorch under bfloat16 autocast
  floor      the FLOPs of the step (products alone) at the rate that the step's largest product
             reaches by itself in this precision, through Strata's own code
  loss       after as many steps as every program did; all began with the same parameters
  peak       of the process's resident memory, interpreter and libraries included

Strata's bfloat16 rounds the operands of products alone, as `precision.compute_dtype` does.
Without PyTorch its rows are missing, and the ratios with them.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from measuring import interleaved, print_head, print_table
from workers import FOLDER, Worker

SIZES = {
  "small": "4 layers, width 128, 12 rows of 64",
  "large": "6 layers, width 384, 16 rows of 256",
  "tiny": "1 layer, width 16, 2 rows of 16",
}
STEPS_PER_TURN = {"small": 20, "large": 1, "tiny": 1}
TORCH, AUTOCAST = "PyTorch float32", "PyTorch bfloat16 autocast"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quick", action="store_true", help="a tiny model, one turn")
  parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "large"])
  parser.add_argument("--turns", type=int, default=9, help="of each program (default: 9)")
  options = parser.parse_args()
  with_torch = importlib.util.find_spec("torch") is not None
  print_head("jax", "flax", *(["torch"] if with_torch else []))
  num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
  for size in ["tiny"] if options.quick else options.sizes:
    for cores in sorted({1, num_cores}):
      print(f"{SIZES[size]}; {cores} core(s)\n")
      compare(size, cores, 1 if options.quick else options.turns, with_torch)


def compare(size: str, num_cores: int, turns: int, with_torch: bool) -> None:
  """One table: every program at one size, on so many cores."""
  with tempfile.TemporaryDirectory() as folder:
    workers = start(size, num_cores, Path(folder), with_torch)
    try:
      count = STEPS_PER_TURN[size]
      last = {name: worker.steps(2) for name, worker in workers.items()}  # compiles

      def turn(name: str) -> None:
        last[name] = workers[name].steps(count)

      cases = {name: lambda name=name: turn(name) for name in workers}
      times = {name: s / count for name, s in interleaved(cases, turns).items()}
    finally:
      for worker in workers.values():
        worker.close()
  rows = []
  for name, seconds in times.items():
    facts = workers[name].facts
    floor = facts["flops"] / facts["flops_per_s"] if facts else None
    peak = last[name]["peak_bytes"] / 1e6
    rows.append(
      (
        name,
        1e3 * seconds,
        _ratio(times.get(TORCH), seconds),
        _ratio(times.get(AUTOCAST), seconds),
        "-" if floor is None else 1e3 * floor,
        f"{last[name]['losses'][-1]:.4f}",
        peak,
      )
    )
  header = ("program", "ms a step", "x PyTorch", "x autocast", "floor ms", "loss", "peak MB")
  print_table(header, rows)


def start(size: str, num_cores: int, folder: Path, with_torch: bool) -> Mapping[str, Worker]:
  """The programs, each ready for its first step."""
  exported = folder / "exported.npz"
  common = [f"--size={size}", f"--folder={folder}"]
  script = str(FOLDER / "strata_gpt.py")
  subprocess.run([sys.executable, script, *common, f"--export={exported}"], check=True)
  workers = {
    f"Strata {dtype}": Worker("strata_gpt.py", [*common, f"--compute_dtype={dtype}"], num_cores)
    for dtype in ("float32", "bfloat16")
  }
  if with_torch:
    arguments = [f"--export={exported}"]
    workers[TORCH] = Worker("torch_gpt.py", arguments, num_cores)
    workers[AUTOCAST] = Worker("torch_gpt.py", [*arguments, "--autocast"], num_cores)
  return workers


def _ratio(other: float | None, seconds: float) -> float | str:
  return "-" if other is None else other / seconds


if __name__ == "__main__":
  main()
