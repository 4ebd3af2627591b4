"""Where the time of a training step goes, by part of the model and kind of operation.

python benchmarks/profile_step.py                              the large size of gpt_task.py
python benchmarks/profile_step.py --size=small --compute_dtype=float32

A few steps run under JAX's profiler; each operation of the compiled program counts with the
least time that it took in any of them, on all CPU cores together. What the compiler fuses into
one operation counts where its last part belongs.
"""

import argparse
import collections
import gzip
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_task import SIZES
from measuring import print_head, print_table
from strata_gpt import prepare
from workers import confine

STEPS = 4
PARTS = {  # the first whose pattern is in the operation's name
  "norms": "_norm/",
  "attention": "/attention/",
  "feed-forward": "/feed_forward/",
  "embeddings, logits": r"/embedding|/positions|embedding\.logits",
  "loss, residual stream": "jvp",
  "optimizer": "",
}
KINDS = {
  "products": "dot_general",
  "copies": "layout_constraint|transpose$|reshape$",
  "conversions": "convert_element_type",
  "elementwise, sums": "",
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=SIZES, default="large")
  parser.add_argument("--compute_dtype", choices=["float32", "bfloat16"], default="bfloat16")
  parser.add_argument("--num_cores", type=int, default=1)
  options = parser.parse_args()
  confine(options.num_cores)
  print_head("jax", "flax")
  with tempfile.TemporaryDirectory() as folder:
    options.folder = Path(folder)
    program, times = profile(options)
  table = collections.defaultdict[tuple[str, str], float](float)
  for operation, seconds in times.items():
    name = program.get(operation, "")
    table[_first(PARTS, name), _first(KINDS, name)] += 1e3 * seconds
  print(f"{options.size}, {options.compute_dtype}; ms a step\n")
  rows = [(part, *(table[part, kind] for kind in KINDS)) for part in PARTS]
  rows = [(*row, sum(row[1:])) for row in rows]
  rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
  print_table(("part", *KINDS, "all"), rows)


def profile(options: argparse.Namespace) -> tuple[Mapping[str, str], Mapping[str, float]]:
  """The name of each operation's origin in the program, and its seconds a step."""
  assembly, batches = prepare(options)
  import jax

  from runners.devices.meshes import place

  state, batch = assembly.initializer.init(), place(batches[0], assembly.batch_sharding)
  compiled = assembly.train_step().lower(state, batch).compile()
  state, _ = jax.block_until_ready(compiled(state, batch))
  with jax.profiler.trace(str(options.folder)):
    for _ in range(STEPS):
      state, _ = jax.block_until_ready(compiled(state, batch))
  return dict(_origins(compiled.as_text())), _least_times(options.folder)


def _origins(program: str) -> Iterator[tuple[str, str]]:
  for line in program.splitlines():
    named = re.match(r'\s+(?:ROOT )?%([\w.\-]+) = .*op_name="([^"]*)"', line)
    if named:
      yield named[1], named[2]


def _least_times(folder: Path) -> dict[str, float]:
  """Operation -> seconds a step: one that runs several times in each counts as often."""
  (path,) = folder.rglob("*.trace.json.gz")
  events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  times = collections.defaultdict[str, list[float]](list)
  for event in events:
    if "hlo_op" in event.get("args", {}):
      times[event["args"]["hlo_op"]].append(1e-6 * event["dur"])
  return {name: min(each) * max(1, len(each) // STEPS) for name, each in times.items()}


def _first(patterns: Mapping[str, str], name: str) -> str:
  return next(key for key, pattern in patterns.items() if re.search(pattern, name))


if __name__ == "__main__":
  main()
