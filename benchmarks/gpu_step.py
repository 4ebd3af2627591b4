"""The time and memory of a training step on one GPU, beside the same model in PyTorch.

python benchmarks/gpu_step.py            GPT-2 124M and a LLaMA of 1.2 B, under four minutes
python benchmarks/gpu_step.py --quick    every row at its smallest size, on any device

Needs jax with CUDA and PyTorch; neither TensorFlow nor seqio. Ids are random, in whole rows.
Both keep float32 parameters and AdamW's moments, compute in bfloat16 and clip gradients.
PyTorch's blocks are compiled (torch.compile), its attention is scaled_dot_product_attention.
Each program has a process of its own, one after another, so that no memory is shared.

  ms a step  the median of --repeats steps, each waited for
  MFU        model FLOPs, with all scores counted, over the peak of the device's data sheet
  peak GB    of the device's memory
  first s    until the first step is done, compiling included
  x PyTorch  PyTorch's time over this program's; above 1 is faster
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import print_head, print_table

# Family -> what is trained, the experiment, rows and their length, and Strata's programs: what
# differs from the experiment as registered.
MODELS: dict[str, Any] = {
  "gpt2": {
    "title": "GPT-2 124M, 16 rows of 1,024",
    "experiment": "gpt2.Small",
    "rows": (16, 1024),
    "programs": {"as registered": {}},
  },
  "llama": {
    "title": "LLaMA 1.2 B, 4 rows of 4,096",
    "experiment": "lwm.TextLlama1B",
    "rows": (4, 4096),
    "programs": {
      "as registered": {},
      "nothing recomputed": {"remat": "none", "loss_chunk": None},
    },
  },
}
QUICK = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 64, "vocab_size": 256}
MEMORY = "0.92"  # of the GPU, for a process that has it alone


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quick", action="store_true", help="tiny models, two steps")
  parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
  parser.add_argument("--repeats", type=int, default=20, help="steps (default: 20)")
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.worker:
    print(json.dumps(_measure(json.loads(options.worker))))
    return
  with_torch = importlib.util.find_spec("torch") is not None
  print_head("jax", "flax", *(["torch"] if with_torch else []))
  for family in options.models:
    _compare(family, options.quick, 2 if options.quick else options.repeats, with_torch)


def _compare(family: str, quick: bool, repeats: int, with_torch: bool) -> None:
  """One table: PyTorch and Strata's programs on one model."""
  model = MODELS[family]
  names = {f"Strata, {name}": fields for name, fields in model["programs"].items()}
  if with_torch:
    names = {"PyTorch": None, **names}
  asked = {"family": family, "quick": quick, "repeats": repeats}
  found = {name: _in_process({**asked, "fields": fields}) for name, fields in names.items()}
  facts = next(each for each in found.values() if "flops" in each)
  print(f"{'tiny' if quick else model['title']}; {facts['kind']}\n")
  other, peak_flops = found.get("PyTorch", {}).get("seconds"), facts["peak_flops"]
  rows = []
  for name, each in found.items():
    seconds = each.get("seconds")
    if seconds is None:
      rows.append((name, "does not fit", *"-----"))
      continue
    mfu = f"{facts['flops'] / seconds / peak_flops:.1%}" if peak_flops else "-"
    peak = "-" if each["peak"] is None else each["peak"] / 1e9
    ratio = "-" if other is None else other / seconds
    tokens = f"{facts['tokens'] / seconds:,.0f}"
    rows.append((name, 1e3 * seconds, tokens, mfu, peak, each["first"], ratio))
  header = ("program", "ms a step", "tokens/s", "MFU", "peak GB", "first s", "x PyTorch")
  print_table(header, rows)


def _in_process(asked: dict[str, Any]) -> dict[str, Any]:
  """What a process says that measures one program, and then gives its memory back."""
  command = [sys.executable, str(Path(__file__)), "--worker", json.dumps(asked)]
  environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY, **os.environ}
  began = time.perf_counter()
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
  if done.returncode:
    sys.exit(f"{asked} ended with {done.returncode} after {time.perf_counter() - began:.0f} s")
  return json.loads(done.stdout.splitlines()[-1])


def _measure(asked: dict[str, Any]) -> dict[str, Any]:
  """In the process: seconds, peak and first; of a Strata program also the model's facts."""
  family, fields = asked["family"], asked["fields"]
  num_rows, length = (2, 32) if asked["quick"] else MODELS[family]["rows"]
  config = _config(family, num_rows, length, asked["quick"])
  if fields is None:
    from torch_step import measured

    return measured(family, _sizes(config), num_rows, length, asked["repeats"])
  import on_device

  for name, value in fields.items():
    setattr(config.model, name, value)
  began = time.perf_counter()
  found = on_device.training_step(config, "whole", asked["repeats"])
  if "seconds" in found:
    found["first"] = time.perf_counter() - began - asked["repeats"] * found["seconds"]
  return {**found, **on_device.device()}


def _config(family: str, num_rows: int, length: int, quick: bool) -> Any:
  """The experiment's, with so many rows of this length."""
  from experiments import registry

  config = registry.find(MODELS[family]["experiment"]).experiment().config()
  config.batch_size, config.sequence_length = num_rows, length
  config.microbatch_size = None
  if quick:
    config.model.model_dim, config.model.num_layers = QUICK["model_dim"], QUICK["num_layers"]
    config.model.block.attention.num_heads = QUICK["num_heads"]
    config.model.block.feed_forward.hidden_dim = QUICK["hidden_dim"]
  return config


def _sizes(config: Any) -> dict[str, int]:
  """What PyTorch's model is made of."""
  model = config.model
  hidden_dim = getattr(model.block.feed_forward, "hidden_dim", None) or 4 * model.model_dim
  return {
    "model_dim": model.model_dim,
    "num_layers": model.num_layers,
    "num_heads": model.block.attention.num_heads,
    "hidden_dim": hidden_dim,
    "vocab_size": model.vocab_size,
  }


if __name__ == "__main__":
  main()
