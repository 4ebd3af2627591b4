"""`runner generate`: continuations of prompts by a checkpoint of a run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import fiddle as fdl
import numpy as np

from input_pipelines.token_store import default_cache_dir
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from layers.sampling import Sampling
from runners import compilation_cache
from runners.assembly import draw
from runners.checkpoint_listing import find_step_folder
from runners.checkpoint_reading import restore_params
from runners.evaluate_run import chosen_steps
from runners.generation import Generator, check_positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to generate.

  Attributes:
    prompts: texts; an empty one is the start of a document.
    max_tokens: how many to add at most.
    sampling: how a token is drawn.
    seed: of the draws.
  """

  prompts: Sequence[str]
  max_tokens: int = 64
  sampling: Sampling = Sampling()
  seed: int = 0

  def __post_init__(self):
    if not self.prompts:
      raise UserError("generate from what? Give --prompt=TEXT; --prompt= starts a document")
    if self.max_tokens < 1:
      raise UserError(f"max_tokens={self.max_tokens} must be at least 1")


def generate(
  config: fdl.Config,
  workdir: str,
  request: Request,
  step: str = "latest",
  cache_dir: str | None = None,
) -> int:
  """Prints each prompt with its continuation; reads no data and changes nothing in the run.

  Args:
    config: resolved, of the run.
    workdir: the run's folder.
    request: what to generate.
    step: a number, "latest", "best" (by checkpoints.metric) or "all".
    cache_dir: for compiled programs.

  Returns:
    The exit code, 0.
  """
  steps = chosen_steps(config, workdir, step)
  data: Any = fdl.build(config.train_data)
  vocabulary = data.vocabulary()
  prompts = [encode(prompt, vocabulary) for prompt in request.prompts]
  compilation_cache.enable(cache_dir or default_cache_dir())
  mesh = fdl.build(config.mesh).build()
  blueprint = draw(config, mesh, data)
  model = blueprint.trainer.model
  check_positions(model, max(map(len, prompts)), request.max_tokens)
  initializer = blueprint.initializer(blueprint.trainer, mesh)
  generator = Generator(
    model, mesh, blueprint.trainer.sharding, vocabulary.vocab_size, vocabulary.eos_id
  )
  for number in steps:
    folder = find_step_folder(workdir, number).absolute()
    params = restore_params(folder, initializer.abstract.params, initializer.unpadded().params)
    continuations = generator(
      params,
      prompts,
      max_tokens=request.max_tokens,
      sampling=request.sampling,
      seed=request.seed,
    )
    for n, ids in enumerate(continuations):
      print(f"step {number}  prompt {n + 1}  {len(prompts[n])} + {len(ids)} tokens")
      print(f"{request.prompts[n]}{vocabulary.decode(ids)}\n", flush=True)
  return 0


def encode(prompt: str, vocabulary: Vocabulary) -> np.ndarray:
  """The ids of a document that begins with `prompt`, int32 [tokens].

  Raises:
    UserError: there are none, or the vocabulary lacks a character.
  """
  bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
  ids = np.append(np.array(bos, np.int32), vocabulary.encode(prompt)).astype(np.int32)
  if not ids.size:
    raise UserError(
      "the prompt is empty, and this vocabulary has no token that begins a document; give "
      "the first characters: --prompt=TEXT"
    )
  return ids
