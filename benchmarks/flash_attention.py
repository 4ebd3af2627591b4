"""Flash attention on a GPU or TPU: how exact, how fast, how lean, and what a step makes of it.

python benchmarks/flash_attention.py                                 everything, in 29 processes
python benchmarks/flash_attention.py --core=CudnnAttention --parts parity time
python benchmarks/flash_attention.py --lengths=256 --core=BlockwiseAttention        on a CPU

One device, one row, products in bfloat16. Every figure comes from a process of its own, because
the highest memory of a device never falls while its process lives.

  parity    the core beside the dense one at the first of --lengths. `apart` is the largest
            difference between the two, `yardstick` that between dense attention in bfloat16
            and in float32, each also relative to the largest value; `x yardstick` is the
            quotient of the two: about 1 where the core rounds as much as the dense one
  time      `ms` is the median of --repeats runs after one that warms up; `peak MB` the highest
            memory of the device, operands included; `planned MB` the compiler's count of the
            same. `left out`: it does not fit the device. `x dense` is dense attention's time
            over the core's
  step      an update of --exp; MFU is the model's FLOPs as runners/devices/flops.py counts them
            (all scores of a row, also those behind the causal mask), over time and peak FLOP/s

Rows are whole, one segment each, or packed with 8 documents and padding at the end. On a CPU
there is no peak of memory and no MFU, times say little, and a step is left out unless --exp
names one.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import print_head, print_table

from layers.errors import UserError

PARTS = ("parity", "time", "step")
ROWS = ("whole", "packed")
DENSE = "dense_attention"
EXPERIMENT = "lwm.TextLlama1B"


def main() -> None:
  options = parse()
  if options.measure:
    try:
      print(json.dumps(measure(options)))
    except UserError as error:
      print(f"error: {error}", file=sys.stderr)
      sys.exit(2)
    return
  print_head("jax", "jaxlib", "flax")
  device = in_own_process("device", options)
  describe(device)
  on_cpu = device["platform"] == "cpu"
  if "parity" in options.parts:
    print_parity(options)
  if "time" in options.parts:
    print_times(options, on_cpu)
  if "step" in options.parts:
    if on_cpu and options.exp is None:
      print("step: left out, as this is a CPU (--exp=lwm.TextLlamaDebug runs one)")
    else:
      print_step(options, device)


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--parts", nargs="+", choices=PARTS, default=PARTS)
  add("--core", default="auto_attention", help="a name as after @ in --set=...core=")
  add("--lengths", nargs="+", type=int, default=[4096, 16_384, 65_536], help="in tokens")
  add("--rows", nargs="+", choices=ROWS, default=ROWS)
  add("--heads", type=int, default=16)
  add("--kv_heads", type=int, help="(default: --heads)")
  add("--head_dim", type=int, default=128)
  add("--repeats", type=int, default=10)
  add("--exp", help=f"of the step (default: {EXPERIMENT})")
  add("--batch_size", type=int, default=4, help="of the step, in rows")
  add("--sequence_length", type=int, default=4096, help="of the step")
  add("--remat", help="of the step (default: the experiment's)")
  add("--measure", choices=("device", *PARTS), help="this alone, in this process")
  add("--backward", action="store_true", help="with --measure=time: not forward alone")
  return parser.parse_args()


def in_own_process(what: str, options: argparse.Namespace, **changes: Any) -> Any:
  """What `measure` returns in a process that is told the options with these changes."""
  arguments = [f"--measure={what}"]
  for name, value in {**vars(options), **changes}.items():
    if name in ("measure", "parts") or value is None or value is False:
      continue
    if isinstance(value, list | tuple):
      arguments += [f"--{name}", *map(str, value)]
    else:
      arguments.append(f"--{name}" if value is True else f"--{name}={value}")
  # Nearly all of a GPU: JAX's own choice is three quarters.
  environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ}
  command = [sys.executable, __file__, *arguments]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
  if done.returncode == 2:  # it said what is wrong with the options
    sys.exit(2)
  if done.returncode:
    sys.exit(f"{Path(__file__).name} {' '.join(arguments)}: exit code {done.returncode}")
  return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> Any:
  """One figure or one small table of them, as JSON; of several lengths or rows the first.

  Raises:
    UserError: there is no such core or experiment, or it does not run here.
  """
  import fiddle as fdl
  import on_device

  from experiments import references, registry

  if options.measure == "device":
    return on_device.device()
  reference = references.find_reference(options.core)
  if options.measure == "step":
    config = registry.find(options.exp or EXPERIMENT).experiment().config()
    config.batch_size, config.sequence_length = options.batch_size, options.sequence_length
    is_class = isinstance(reference, type)
    config.model.block.attention.core = fdl.Config(reference) if is_class else reference
    if options.remat:
      config.model.remat = options.remat
    return on_device.training_step(config, options.rows[0], options.repeats)
  shape = on_device.Shape(
    options.lengths[0],
    options.rows[0],
    options.heads,
    options.kv_heads or options.heads,
    options.head_dim,
  )
  core = on_device.core(reference, shape)
  if options.measure == "parity":
    return {"core": _name(core), "compared": on_device.parity(core, shape)}
  timed = on_device.attention_time(core, shape, options.backward, options.repeats)
  return {"core": _name(core), **timed}


def describe(device: dict[str, Any]) -> None:
  """The device, and what that means for the figures."""
  memory = f"{device['bytes'] / 2**30:.1f} GiB" if device["bytes"] else "memory unknown"
  peak = device["peak_flops"]
  rate = f"{peak / 1e12:.0f} TFLOP/s in bfloat16" if peak else "peak FLOP/s unknown: MFU n/a"
  print(f"device    {device['kind']} ({device['platform']}), {memory}, {rate}")
  if device["platform"] == "cpu":
    print("there is no accelerator: times are of a CPU, and peak memory and MFU n/a")
  print(flush=True)


def print_parity(options: argparse.Namespace) -> None:
  length = options.lengths[0]
  table = []
  for rows in options.rows:
    found = in_own_process("parity", options, lengths=[length], rows=[rows])
    for name, x in found["compared"].items():
      times = x["apart"] / x["yardstick"] if x["yardstick"] else "n/a"
      figures = (f"{x[column]:.2e}" for column in x)
      table.append((f"{rows}, {name}", found["core"], *figures, times))
  print(f"parity at {length:,} tokens, {_heads(options)}\n")
  columns = ("apart", "relative", "yardstick", "relative yardstick", "x yardstick")
  print_table(("of", "core", *columns), table)


def print_times(options: argparse.Namespace, on_cpu: bool) -> None:
  """Dense beside the core, for each length, kind of rows and direction."""
  table = []
  for length in options.lengths:
    for rows in options.rows:
      for backward in (False, True):
        case = {"lengths": [length], "rows": [rows], "backward": backward}
        dense = in_own_process("time", options, **case, core=DENSE)
        found = in_own_process("time", options, **case)
        direction = "forward and backward" if backward else "forward"
        row = (f"{length:,} {rows}, {direction}", found["core"], *_cells(found))
        table.append((*row, *_cells(dense), _ratio(dense, found)))
  print(f"{'times of a CPU' if on_cpu else 'time and memory'}, {_heads(options)}\n")
  columns = ("ms", "peak MB", "planned MB")
  dense_columns = (f"dense {column}" for column in columns)
  print_table(("tokens", "core", *columns, *dense_columns, "x dense"), table)


def print_step(options: argparse.Namespace, device: dict[str, Any]) -> None:
  table, facts = [], {}
  for rows in options.rows:
    facts = in_own_process("step", options, rows=[rows])
    seconds, peak = facts.get("seconds"), device["peak_flops"]
    if seconds is None:
      table.append((rows, *["left out"] * 5))
      continue
    rate = facts["flops"] / seconds
    mfu = f"{rate / peak:.1%}" if peak else "n/a"
    memory = facts["peak"] / 1e6 if facts["peak"] else "n/a"
    table.append((rows, 1e3 * seconds, facts["tokens"] / seconds, rate / 1e12, mfu, memory))
  print(
    f"a step of {options.exp or EXPERIMENT}, {facts['parameters']:,} parameters, "
    f"{options.batch_size} x {options.sequence_length:,} tokens, core {options.core}, "
    f"{facts['flops'] / 1e12:,.2f} TFLOP of the model"
    f"{'; a time of a CPU' if device['platform'] == 'cpu' else ''}\n"
  )
  print_table(("rows", "ms", "tokens/s", "model TFLOP/s", "MFU", "peak MB"), table)


def _cells(timed: dict[str, Any]) -> tuple[object, object, object]:
  planned = timed["planned"] / 1e6 if timed["planned"] else "n/a"
  if "seconds" not in timed:
    return "left out", "left out", planned
  return 1e3 * timed["seconds"], timed["peak"] / 1e6 if timed["peak"] else "n/a", planned


def _ratio(dense: dict[str, Any], found: dict[str, Any]) -> float | str:
  measured = "seconds" in dense and "seconds" in found
  return dense["seconds"] / found["seconds"] if measured else "n/a"


def _heads(options: argparse.Namespace) -> str:
  kv_heads = options.kv_heads or options.heads
  return f"{options.heads} heads of {options.head_dim} ({kv_heads} of keys), bfloat16"


def _name(core: Any) -> str:
  return getattr(core, "__name__", type(core).__name__)


if __name__ == "__main__":
  main()
