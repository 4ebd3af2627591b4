"""A worker that trains one of the sizes of gpt_task.py with Strata, as `runner` would.

With --export it trains nothing: it leaves the first parameters, the batches and the learning
rates in a file, so that another program can train the same model on the same data, and a token
store for workers to come, which then need no TensorFlow in their memory.
"""

import argparse
from pathlib import Path
from typing import Any

from workers import confine, serve


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", required=True)
  parser.add_argument("--compute_dtype", default="float32")
  parser.add_argument("--folder", type=Path, required=True, help="of text and token store")
  parser.add_argument("--export", type=Path, help="an .npz file to write")
  parser.add_argument("--num_cores", type=int, default=1)
  options = parser.parse_args()
  confine(options.num_cores)
  assembly, batches = prepare(options)
  if options.export:
    _export(options.export, assembly, batches)
  else:
    facts = {
      "flops": assembly.model_flops(),
      "flops_per_s": _product_rate(assembly.trainer, options.compute_dtype),
    }
    serve(_step(assembly, batches), facts)


def prepare(options: argparse.Namespace) -> tuple[Any, list[Any]]:
  """The run that the options describe, and its batches."""
  from runners.processes import host_allocator

  host_allocator.share_one_arena()  # as runner does, before jax starts its threads
  import jax
  from gpt_task import NUM_BATCHES, SIZES, write_text

  from runners.assembly import assemble

  if jax.default_backend() == "cpu":
    host_allocator.keep_freed_memory()
  config = SIZES[options.size]().config()
  config.train_data.path = str(write_text(options.folder))
  config.precision.compute_dtype = options.compute_dtype
  assembly = assemble(config, str(options.folder))
  return assembly, [assembly.batches[i] for i in range(NUM_BATCHES)]


def _step(assembly: Any, batches: list[Any]) -> Any:
  """(number) -> loss of the next update."""
  from runners.devices.meshes import place

  state, update = assembly.initializer.init(), assembly.train_step()
  placed = [place(batch, assembly.batch_sharding) for batch in batches]

  def step(number: int) -> float:
    nonlocal state
    state, loss = update(state, placed[number % len(placed)])
    return float(loss)

  return step


def _export(path: Path, assembly: Any, batches: list[Any]) -> None:
  import jax
  import numpy as np

  params = assembly.initializer.init().params
  arrays: dict[str, Any] = {
    "/".join(key.key for key in where): np.asarray(array)
    for where, array in jax.tree_util.tree_leaves_with_path(params)
  }
  for name in ("decoder_input_tokens", "decoder_target_tokens"):
    arrays[name] = np.stack([batch[name] for batch in batches])
  arrays["learning_rates"] = np.array(
    [assembly.learning_rates["learning_rate"](i) for i in range(assembly.num_steps)]
  )
  np.savez(path, **arrays)


def _product_rate(trainer: Any, compute_dtype: str) -> float:
  """FLOP/s of the largest product of the step, forward, alone: what a step could reach."""
  import statistics

  import jax
  import jax.numpy as jnp
  from measuring import seconds

  from layers.product import project

  rows, width = trainer.batch_size * trainer.sequence_length, trainer.model.model_dim
  dtype = jnp.dtype(compute_dtype)
  x, kernel = jnp.ones((rows, width), dtype), jnp.ones((width, 4 * width), dtype)
  multiply = jax.jit(lambda x, kernel: project(x, kernel, compute_dtype))
  case = lambda: jax.block_until_ready(multiply(x, kernel))
  case()
  times = [seconds(case) for _ in range(30)]
  return 2 * rows * width * 4 * width / statistics.median(times)


if __name__ == "__main__":
  main()
