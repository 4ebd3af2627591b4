"""What the cache of keys and values is worth: tokens a second with it and without.

python benchmarks/generate.py            some minutes, 3 GB of memory
python benchmarks/generate.py --quick    the first row of gpt2.Nano alone

Greedy, random parameters, every prompt of the same length and no end of text. Without a cache,
each token is from a pass over all before it, a program of one length whose loop is compiled
too. Both take turns in one process and are warm; medians over the rounds. "same" says that
both gave the same tokens.
"""

import argparse
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import interleaved, print_head, print_table

from experiments.resolution import resolve
from layers.sampling import Sampling
from layers.sharding import partitioned
from layers.tokens import Tokens
from runners.blueprint import draw, lay_ground
from runners.generation.generator import Generator

# Experiment -> (rows, tokens of a prompt, new tokens) of each case. The shortest comes first.
CASES: Mapping[str, list[tuple[int, int, int]]] = {
  "gpt2.Nano": [(1, 16, 32), (1, 64, 192), (4, 64, 64)],
  "gpt2.Small": [(1, 64, 32), (1, 224, 32)],
}

CONTEXT = 1024


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--quick", action="store_true", help="one small case, to see that it runs"
  )
  options = parser.parse_args()
  print_head("jax")
  header = ("case", "rows", "prompt", "new", "cached tok/s", "uncached tok/s", "ratio", "same")
  for exp, cases in CASES.items():
    models = Models(exp)
    chosen = cases[:1] if options.quick else cases
    repeats = 1 if options.quick else 3
    rows = [(str(n + 1), *measure(models, *case, repeats)) for n, case in enumerate(chosen)]
    print(f"{exp}\n")
    print_table(header, rows)
    if options.quick:
      break


class Models:
  """A model of an experiment on this machine, with random parameters; no data are read."""

  def __init__(self, exp: str):
    config = resolve(exp, ()).config
    config.sequence_length = CONTEXT
    ground = lay_ground(config)
    self.mesh = ground.mesh.build()
    blueprint = draw(ground, self.mesh)
    self.trainer = blueprint.trainer
    abstract = blueprint.initializer.abstract.params
    generator = np.random.default_rng(0)
    fill = lambda x: jax.device_put(
      generator.normal(0, 0.05, x.shape).astype(x.dtype), x.sharding
    )
    self.params = jax.tree.map(fill, abstract)
    self.num_ids = self.trainer.model.vocab_size
    self.generator = Generator(
      self.trainer.model,
      self.mesh,
      self.trainer.sharding,
      num_ids=self.num_ids,
      context=CONTEXT,
    )

  def with_cache(self, prompts: np.ndarray, num_new: int) -> np.ndarray:
    greedy = Sampling(temperature=0.0)
    rows = self.generator(self.params, list(prompts), max_tokens=num_new, sampling=greedy)
    return np.stack(rows)

  def without_cache(self, prompts: np.ndarray, num_new: int) -> np.ndarray:
    with partitioned(self.mesh, self.trainer.sharding):
      ids = self._uncached(self.params, jnp.asarray(prompts), num_new)
    return np.asarray(ids)

  @functools.partial(jax.jit, static_argnums=(0, 3))
  def _uncached(self, params: Any, prompts: jax.Array, num_new: int) -> jax.Array:
    num_rows, length = prompts.shape
    ids = jnp.pad(prompts, ((0, 0), (0, num_new)))
    tokens = Tokens.unpacked(*ids.shape)

    def step(end: jax.Array, ids: jax.Array) -> jax.Array:
      logits: Any = self.trainer.model.apply({"params": params}, ids, tokens)
      return ids.at[:, end].set(logits[:, end - 1, : self.num_ids].argmax(-1))

    return jax.lax.fori_loop(length, length + num_new, step, ids)[:, length:]


def measure(
  models: Models, num_rows: int, length: int, num_new: int, repeats: int
) -> tuple[object, ...]:
  shape = (num_rows, length)
  prompts = np.random.default_rng(1).integers(0, models.num_ids, shape).astype(np.int32)
  cases = {
    "cached": lambda: models.with_cache(prompts, num_new),
    "uncached": lambda: models.without_cache(prompts, num_new),
  }
  same = bool((cases["cached"]() == cases["uncached"]()).all())  # compiles, too
  times = interleaved(cases, repeats)
  cached, uncached = (num_rows * num_new / times[name] for name in cases)
  what = (num_rows, length, num_new)
  return (*what, cached, uncached, cached / uncached, "yes" if same else "no")


if __name__ == "__main__":
  main()
