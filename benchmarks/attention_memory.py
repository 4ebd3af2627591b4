"""The memory of attention against the length: dense, and block by block.

python benchmarks/attention_memory.py --plot=docs/attention_memory.svg    about five minutes
python benchmarks/attention_memory.py --lengths 2048 4096 --compute_dtype=bfloat16

One attention layer, 2 heads of 64, one row, forward and backward on CPU. Every length and core
has a process of its own (see peak_memory.py).

  MB       growth of the resident memory during the step, at its highest
  planned  what the compiler says of the same program: temporaries and gradients
  left out the compiler plans more than --limit_gib, so the step did not run

Printed after the table is the exponent p of a fit MB ~ length^p to the three longest lengths
measured. The plot needs the extra `bench` (matplotlib).
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from measuring import print_head, print_table
from peak_memory import Peak, in_own_process, say

CORES = ("dense", "blockwise")
HEADS, HEAD_DIM = 2, 64
LENGTHS = (2048, 4096, 8192, 16_384, 32_768, 65_536)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, help="in tokens")
  parser.add_argument("--compute_dtype", choices=["float32", "bfloat16"], default="float32")
  parser.add_argument("--limit_gib", type=float, default=12.0, help="of a step (default: 12)")
  parser.add_argument("--plot", type=Path, help="an .svg file to write")
  parser.add_argument("--core", choices=CORES, help="measure this alone, in this process")
  options = parser.parse_args()
  if options.core:
    (length,) = options.lengths
    measure(options.core, length, options.compute_dtype, options.limit_gib)
    return
  print_head("jax", "flax")
  print(f"one attention layer, {HEADS} heads of {HEAD_DIM}, {options.compute_dtype}\n")
  peaks = sweep(options)
  print_table(
    ("tokens", *(f"{core} {column}" for core in CORES for column in ("MB", "planned"))),
    [
      (f"{length:,}", *(cell for core in CORES for cell in _cells(peaks[core, length])))
      for length in options.lengths
    ],
  )
  lines = {core: _line(peaks, core, options.lengths) for core in CORES}
  for core, points in lines.items():
    if len(points) > 1:
      print(f"{core}: MB ~ length^{exponent(points[-3:]):.2f}")
  if options.plot:
    plot(lines, options.plot)


def sweep(options: argparse.Namespace) -> dict[tuple[str, int], Peak]:
  """(core, length) -> what its step took."""
  return {
    (core, length): in_own_process(
      __file__,
      [
        f"--core={core}",
        f"--lengths={length}",
        f"--compute_dtype={options.compute_dtype}",
        f"--limit_gib={options.limit_gib}",
      ],
    )
    for length in options.lengths
    for core in CORES
  }


def measure(core: str, length: int, compute_dtype: str, limit_gib: float) -> None:
  """Says what gradients of one layer take, for its parameters and its input."""
  import jax
  import jax.numpy as jnp

  from layers.attention import Attention
  from layers.attention_cores.blockwise import BlockwiseAttention
  from layers.attention_cores.dense import dense_attention
  from layers.dtypes import DType
  from layers.tokens import Tokens

  layer = Attention(
    num_heads=HEADS,
    core={"dense": dense_attention, "blockwise": BlockwiseAttention()}[core],
    compute_dtype=DType(compute_dtype),
  )
  x, tokens = jnp.ones((1, length, HEADS * HEAD_DIM)), Tokens.unpacked(1, length)
  # Parameters know no length. Made on a short row, they leave no freed memory behind.
  params = layer.init(jax.random.key(0), x[:, :8], Tokens.unpacked(1, 8))
  loss = lambda params, x: jnp.sum(jnp.square(jnp.asarray(layer.apply(params, x, tokens))))
  say(jax.grad(loss, (0, 1)), (params, x), limit_gib * 2**30)


def exponent(points: Sequence[tuple[int, float]]) -> float:
  """p of the least-squares fit y ~ x^p to points (x, y)."""
  xs, ys = ([math.log(value) for value in values] for values in zip(*points, strict=True))
  return statistics.linear_regression(xs, ys).slope


def plot(lines: dict[str, list[tuple[int, float]]], path: Path) -> None:
  """MB against tokens, both axes logarithmic, as SVG."""
  import matplotlib  # pyright: ignore[reportMissingImports]

  matplotlib.use("svg")
  matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "strata"})
  import matplotlib.pyplot as pyplot  # pyright: ignore[reportMissingImports]

  figure, axes = pyplot.subplots(figsize=(6, 4))
  for core, points in lines.items():
    tokens, megabytes = zip(*points, strict=True)
    label = f"{core}, length^{exponent(points[-3:]):.2f}" if len(points) > 1 else core
    axes.loglog(tokens, megabytes, "o-", label=label, base=2)
  ticks = sorted({tokens for points in lines.values() for tokens, _ in points})
  axes.set_xticks(ticks, [f"{tick // 1024}K" if tick >= 1024 else str(tick) for tick in ticks])
  axes.yaxis.set_major_formatter("{x:,.0f}")
  axes.set_xlabel("tokens of a row")
  axes.set_ylabel("MB, forward and backward")
  axes.grid(True, alpha=0.3)
  axes.legend(frameon=False)
  figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def _line(
  peaks: dict[tuple[str, int], Peak], core: str, lengths: Sequence[int]
) -> list[tuple[int, float]]:
  """(length, MB) of what was measured."""
  measured = ((length, peaks[core, length].measured) for length in sorted(lengths))
  return [(length, taken / 1e6) for length, taken in measured if taken is not None]


def _cells(peak: Peak) -> tuple[object, float]:
  measured = "left out" if peak.measured is None else peak.measured / 1e6
  return measured, peak.planned / 1e6


if __name__ == "__main__":
  main()
