"""`runner train`, `eval`, `generate` and `data`: the commands that build a config's objects.

They need jax, Orbax and more, so each module is imported only when its command runs, and other
commands start at once.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Sequence

import fiddle as fdl

from experiments.edits import find
from experiments.invocation import Invocation
from experiments.override_arguments import Override
from experiments.paths import parse_path
from layers.errors import UserError
from layers.suggestions import did_you_mean, nearest
from runners.checkpoints.origin import noted_config, recorded_config
from runners.configs.files import JSON_NAME
from runners.configs.tree import path_text


def train(invocation: Invocation) -> int:
  """Trains, or continues the run in the same workdir."""
  resolved = invocation.resolve()
  workdir = invocation.workdir_for(resolved.exp)
  accepted = tuple(
    _accepted(path, resolved.config, workdir) for path in invocation.accept_change
  )
  from runners.training import train as run

  return run(
    resolved.config,
    exp=resolved.exp,
    workdir=str(workdir),
    provenance=[dataclasses.asdict(change) for change in resolved.changes],
    accept_changes=accepted,
    cache_dir=invocation.cache_dir,
  )


def evaluate(invocation: Invocation) -> int:
  """Evaluates checkpoints of a run with the run's own config, plus overrides."""
  config, workdir = _run_asked_for(invocation)
  from runners.evaluate_run import evaluate as run

  return run(config, workdir=workdir, step=invocation.step, cache_dir=invocation.cache_dir)


def generate(invocation: Invocation) -> int:
  """Continues prompts with a checkpoint of a run and its own config, plus overrides."""
  from layers.sampling import Sampling
  from runners.generation.generate_run import Request
  from runners.generation.generate_run import generate as run

  sampling = Sampling(
    temperature=invocation.temperature, top_k=invocation.top_k, top_p=invocation.top_p
  )
  request = Request(
    prompts=invocation.prompt,
    max_tokens=invocation.max_tokens,
    sampling=sampling,
    seed=invocation.seed,
  )
  config, workdir = _run_asked_for(invocation)
  return run(config, workdir, request, step=invocation.step, cache_dir=invocation.cache_dir)


def preview_data(invocation: Invocation) -> int:
  """Prints the first packed rows; with --cache only builds the token store."""
  if invocation.num_rows < 1:
    raise UserError(f"--num_rows={invocation.num_rows}: expected at least 1")
  resolved = invocation.resolve()
  from input_pipelines.token_store import default_cache_dir
  from runners.preview import print_rows

  print_rows(
    resolved.config,
    num_rows=invocation.num_rows,
    build_only=invocation.cache,
    cache_dir=invocation.cache_dir or default_cache_dir(),
  )
  return 0


def check_step(step: str, words: Sequence[str] = ("latest", "best", "all")) -> None:
  """Raises UserError for a step that is neither a number nor one of the words."""
  if not re.fullmatch("[0-9]{1,18}", step) and step not in words:
    cure = f"; {did_you_mean(step, words)}" if nearest(step, words) else ""
    expected = " or ".join([", ".join(["a number", *words[:-1]]), words[-1]])
    raise UserError(f"--step={step}: expected {expected}{cure}")


def _accepted(text: str, config: fdl.Config, workdir: pathlib.Path) -> str:
  """The path as configs print it; the field may also exist only in the earlier config."""
  path = parse_path(text)
  try:
    return path_text(find(config, path).path)
  except UserError as error:
    if (workdir / JSON_NAME).is_file():
      recorded = recorded_config(workdir)
      with contextlib.suppress(UserError):
        return path_text(find(recorded.config, path).path)
      if text in recorded.fields():  # a default that is gone, or part of one
        return text
    elif text in ((noted_config(workdir) or (0, None))[1] or {}):
      return text
    raise UserError(f"--accept_change={text}: {error}") from error


def _run_asked_for(invocation: Invocation) -> tuple[fdl.Config, str]:
  """The run's own config with overrides, and the run's folder."""
  check_step(invocation.step)
  stored = _stored_config(invocation)
  overrides = (Override("config", str(stored)), *invocation.overrides)
  resolved = dataclasses.replace(invocation, exp=None, overrides=overrides).resolve()
  if invocation.exp not in (None, resolved.exp):
    raise UserError(f"{stored.parent} is a run of {resolved.exp}, not of {invocation.exp}")
  return resolved.config, str(stored.parent)


def _stored_config(invocation: Invocation) -> pathlib.Path:
  if invocation.exp is None and invocation.workdir is None:
    raise UserError("which run? Name it with --workdir=DIR, or its experiment with --exp=NAME")
  workdir = invocation.workdir_for(invocation.exp or "")
  if not (workdir / JSON_NAME).is_file():
    raise UserError(
      f"there is no run in {workdir} (no {JSON_NAME}): train first, or name"
      " the run with --workdir=DIR"
    )
  return workdir / JSON_NAME
