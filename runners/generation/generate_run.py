"""`runner generate`: continuations of prompts by a checkpoint of a run."""

import dataclasses
from collections.abc import Sequence

import fiddle as fdl

from input_pipelines.progress import Progress
from input_pipelines.token_store import default_cache_dir
from layers.errors import UserError
from layers.sampling import Sampling
from runners.blueprint import draw, lay_ground
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import restore_model
from runners.evaluate_run import chosen_steps
from runners.generation.generator import Generator, check_context
from runners.generation.prompt_tokens import prompt_tokens
from runners.model_traits import traits
from runners.processes import compilation_cache
from runners.trainer import Trainer

_MAX_TOKENS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to generate.

  Attributes:
    prompts: texts; an empty one is the start of a document.
    max_tokens: the most tokens to add; None: 64, or fewer if the context ends before.
    sampling: how a token is drawn.
    seed: of the random draws.
  """

  prompts: Sequence[str]
  max_tokens: int | None = None
  sampling: Sampling = Sampling()
  seed: int = 0

  def __post_init__(self):
    if not self.prompts:
      raise UserError("generate from what? Give --prompt=TEXT; --prompt= starts a document")
    if self.max_tokens is not None and self.max_tokens < 1:
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
    config: the run's resolved config.
    workdir: the run's folder.
    request: what to generate.
    step: a number, "latest", "best" (by checkpoints.metric) or "all".
    cache_dir: for compiled programs.

  Returns:
    The exit code, 0.
  """
  ground = lay_ground(config)
  steps = chosen_steps(config, workdir, step)
  tokens = prompt_tokens(ground.train_data, workdir, traits(config.model).vocab_size)
  prompts = [tokens.encode(prompt) for prompt in request.prompts]
  compilation_cache.enable(cache_dir or default_cache_dir())
  mesh = ground.mesh.build()
  blueprint = draw(ground, mesh, vocabulary=tokens.vocabulary)
  context = _context(blueprint.trainer, tokens.context)
  longest = max(map(len, prompts))
  max_tokens = request.max_tokens or max(1, min(_MAX_TOKENS, context + 1 - longest))
  check_context(context, longest, max_tokens)
  initializer = blueprint.initializer
  generator = Generator(
    blueprint.trainer.model,
    mesh,
    blueprint.trainer.sharding,
    num_ids=tokens.vocabulary.vocab_size,
    context=context,
    end_ids=tokens.end_ids,
  )
  for number in steps:
    folder = find_step_folder(workdir, number).absolute()
    params, variables = restore_model(folder, initializer.abstract, initializer.unpadded())
    with Progress("generating"):
      continuations = generator(
        params,
        prompts,
        max_tokens=max_tokens,
        sampling=request.sampling,
        seed=request.seed,
        variables=variables,
      )
    for n, ids in enumerate(continuations):
      print(f"step {number}  prompt {n + 1}  {len(prompts[n])} + {len(ids)} tokens")
      text = tokens.vocabulary.continuation(prompts[n], ids)
      print(f"{request.prompts[n]}{text}\n", flush=True)
  return 0


def _context(trainer: Trainer, imported: int | None) -> int:
  """The model's context in tokens: the size of its position table, or its longest training row.

  Rotary positions have no end: `--set=sequence_length=N` allows positions never trained.
  """
  model = traits(trainer.model)
  if model.learned_positions and model.max_positions:
    return model.max_positions
  return max(trainer.sequence_length, imported or 0)
