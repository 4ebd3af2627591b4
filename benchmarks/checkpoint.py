"""What a checkpoint costs: saving, restoring, verifying, and what many saves leave in memory.

python benchmarks/checkpoint.py            about three minutes, 10 GB of memory, 4 GB of disk
python benchmarks/checkpoint.py --quick    every row at its smallest size

The first table is of a process that saves the state of gpt2.Nano again and again, as runs do,
each save waited for: its resident memory, and the growth in the hundred saves after the fifth.
The first few start threads and fill pools.

The others are of gpt2.Small: 124 M parameters and two AdamW moments of each, random values,
which hardly compress. Nothing is trained. Formats take turns; medians over the rounds.

  blocking  the loop stands still: checksums, and handing over to the threads that write
  save      until the checkpoint is finished on disk, blocking included
  restore   reading all arrays and verifying them; plain: Orbax alone, nothing verified
  verify    `runner ckpt verify`: reading them without the model
  checksums of all arrays alone, a part of blocking, restore and verify

Files that are read have just been written, and come from the page cache.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import psutil  # Orbax needs it too
from absl import logging
from measuring import print_head, print_table, seconds

from experiments.resolution import resolve
from runners.array_names import named_arrays
from runners.blueprint import draw, lay_ground
from runners.checkpoints.checksums import array_checksums
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.verification import verify
from runners.checkpoints.writing import CheckpointWriter
from runners.processes import host_allocator
from runners.train_state import TrainState

SETTLED = 5  # saves before memory counts


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--quick", action="store_true", help="smallest sizes, to see that it runs"
  )
  parser.add_argument("--folder", help="where to save (default: the system's temporary folder)")
  options = parser.parse_args()
  logging.set_verbosity(logging.ERROR)  # Orbax finds fault with waiting for each save
  host_allocator.share_one_arena()
  host_allocator.keep_freed_memory()  # as runs on CPU do
  print_head("jax", "orbax-checkpoint")
  with tempfile.TemporaryDirectory(dir=options.folder) as folder:
    print_memory(random_state("gpt2.Nano"), Path(folder) / "many", 8 if options.quick else 100)
    large = random_state("gpt2.Nano" if options.quick else "gpt2.Small")
    print_times(large, Path(folder), repeats=1 if options.quick else 3)


def random_state(exp: str) -> TrainState:
  """The state of a run of `exp`, with random values in its arrays; no data are read."""
  config = resolve(exp, ()).config
  ground = lay_ground(config)
  abstract = draw(ground, ground.mesh.build()).initializer.abstract
  generator = np.random.default_rng(0)

  def fill(x: Any) -> jax.Array:
    values = generator.standard_normal(x.shape, np.float32)
    return jax.device_put(values.astype(x.dtype), x.sharding)

  return jax.tree.map(fill, abstract)


def print_memory(state: TrainState, folder: Path, num_saves: int) -> None:
  """Resident memory along `num_saves` saves."""
  process, rows, settled = psutil.Process(), [], 0
  writer = CheckpointWriter(folder, Checkpoints())
  for number in range(1, SETTLED + num_saves + 1):
    save(writer, number, state)
    resident = process.memory_info().rss
    if number == SETTLED:
      settled = resident
    after = number - SETTLED
    if number == 1 or after >= 0 and after % (num_saves // 4) == 0:
      growth = 100 * (resident / settled - 1) if after > 0 else "-"
      rows.append((number, resident / 1e6, growth))
  writer.close()
  print_table(("save", "resident MB", "growth %"), rows)


def save(writer: CheckpointWriter, step: int, state: TrainState) -> None:
  writer.save(step, state, {}, {})
  writer.wait()


def print_times(state: TrainState, folder: Path, repeats: int) -> None:
  """Each operation in each format, and what a checkpoint weighs."""
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  times: dict[str, dict[str, list[float]]] = {}
  sizes = {}
  for _ in range(repeats):
    for name, measure in (
      ("Strata", measure_strata),
      ("plain, a file an array", lambda *given: measure_plain(*given, use_ocdbt=False)),
      ("plain, one database", lambda *given: measure_plain(*given, use_ocdbt=True)),
    ):
      for what, taken in measure(state, abstract, folder / "run").items():
        times.setdefault(name, {}).setdefault(what, []).append(taken)
      files = [file for file in (folder / "run").rglob("*") if file.is_file()]
      sizes[name] = sum(file.stat().st_size for file in files) / 1e6, len(files)
      shutil.rmtree(folder / "run")
  columns = ("blocking", "save", "restore", "verify")
  print_table(
    ("format", *(f"{column} s" for column in columns), "MB", "files"),
    [
      (
        name,
        *(statistics.median(taken[c]) if c in taken else "-" for c in columns),
        *sizes[name],
      )
      for name, taken in times.items()
    ],
  )
  arrays = dict(named_arrays(state))
  checksums = statistics.median(
    seconds(lambda: array_checksums(arrays)) for _ in range(repeats)
  )
  weight = sum(x.nbytes for x in arrays.values()) / 1e6
  rows = [("all arrays", len(arrays), weight, checksums, weight / checksums / 1e3)]
  print_table(("checksums of", "arrays", "MB", "s", "GB/s"), rows)


def measure_strata(state: TrainState, abstract: TrainState, folder: Path) -> dict[str, float]:
  """Seconds of each operation, as `runner` does it."""
  writer = CheckpointWriter(folder, Checkpoints())
  blocking = seconds(lambda: writer.save(1, state, {}, {}))
  waiting = seconds(writer.wait)
  writer.close()
  return {
    "blocking": blocking,
    "save": blocking + waiting,
    "restore": seconds(lambda: jax.block_until_ready(restore_newest(folder, abstract))),
    "verify": seconds(lambda: list(verify(str(folder)))),
  }


def measure_plain(
  state: TrainState, abstract: TrainState, folder: Path, *, use_ocdbt: bool
) -> dict[str, float]:
  """Seconds of each operation by Orbax alone."""
  handler = ocp.StandardCheckpointHandler(use_ocdbt=use_ocdbt)
  manager = ocp.CheckpointManager(folder, item_handlers=handler)
  blocking = seconds(lambda: manager.save(1, args=ocp.args.StandardSave(state)))
  waiting = seconds(manager.wait_until_finished)
  restore: Callable[[], Any] = lambda: manager.restore(
    1, args=ocp.args.StandardRestore(abstract)
  )
  restoring = seconds(lambda: jax.block_until_ready(restore()))
  manager.close()
  return {"blocking": blocking, "save": blocking + waiting, "restore": restoring}


if __name__ == "__main__":
  main()
