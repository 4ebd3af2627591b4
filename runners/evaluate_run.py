"""`runner eval`: the evaluation sets on the checkpoints of a finished or running run."""

import fiddle as fdl

from input_pipelines.token_store import default_cache_dir
from layers.errors import UserError
from runners.assembly import assemble
from runners.checkpoints.listing import best_step, find_step_folder, steps
from runners.checkpoints.reading import DamagedCheckpoint, restore_model
from runners.processes import compilation_cache


def evaluate(
  config: fdl.Config, workdir: str, step: str = "latest", cache_dir: str | None = None
) -> int:
  """Prints the evaluation of one checkpoint or of all; changes nothing in the run.

  Args:
    config: the run's resolved config.
    workdir: the run's folder.
    step: a number, "latest", "best" (by checkpoints.metric) or "all".
    cache_dir: for token stores and compiled programs.

  Returns:
    The exit code: 0, or 1 if "all" met a damaged checkpoint, which is named.
  """
  cache_dir = cache_dir or default_cache_dir()
  if not config.eval_data:
    raise UserError("this experiment has no eval_data to evaluate on")
  chosen = chosen_steps(config, workdir, step)
  compilation_cache.enable(cache_dir)
  assembly = assemble(config, cache_dir)
  evaluator = assembly.evaluator()
  abstract, unpadded = assembly.initializer.abstract, assembly.initializer.unpadded()
  code = 0
  for number in chosen:
    folder = find_step_folder(workdir, number).absolute()
    try:
      model = restore_model(folder, abstract, unpadded)
    except DamagedCheckpoint as error:
      if step != "all":
        raise
      print(f"step {number}  {error}", flush=True)
      code = 1
      continue
    scalars = evaluator(*model)
    figures = "  ".join(f"{k}={v:.6f}" for k, v in scalars.items())
    print(f"step {number}  {figures or 'nothing was measured'}", flush=True)
  return code


def chosen_steps(config: fdl.Config, workdir: str, step: str) -> list[int]:
  """The steps of the run's checkpoints named by "latest", "best", "all" or a number.

  Raises:
    UserError: there is none.
  """
  known = steps(workdir)
  if not known:
    raise UserError(f"{workdir} holds no checkpoint; train first")
  if step == "all":
    return known
  if step == "latest":
    return known[-1:]
  if step == "best":
    policy = fdl.build(config.checkpoints)
    return [best_step(workdir, policy.metric, policy.mode)]
  if not (step.isascii() and step.isdigit()):
    raise UserError(f"--step={step}: expected a number, latest, best or all")
  found = [number for number in known if str(number) == step]
  if not found:
    raise UserError(f"--step={step}: {workdir} has the steps {known}")
  return found
