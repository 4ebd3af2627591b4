"""Notes a run that is too short for its learning-rate schedule."""

import fiddle as fdl
from fiddle import daglish

from layers.notices import note
from runners.configs.fields import fields, target_of, value_of
from runners.configs.tree import path_text, walk
from runners.schedules import steps_of


def note_short_run(config: fdl.Config, num_steps: int) -> None:
  """Notes if a run ends within its warmup, or before the end of its schedule's decay.

  It is no error, because people try an experiment by shortening it.

  Args:
    config: of a Trainer.
    num_steps: the run's last step.
  """
  for path, node, _ in walk(config):
    if path[0] != daglish.Attr("optimizer") or not isinstance(node, fdl.Buildable):
      continue
    known = fields(target_of(node))
    if not {"warmup", "num_steps"} <= known.keys():
      continue
    length = value_of(node, "num_steps") or num_steps
    rise = steps_of(value_of(node, "warmup"), length)
    fall = steps_of(value_of(node, "decay"), length) if "decay" in known else 0
    if rise < num_steps and rise + fall <= num_steps:
      continue
    cut = "the rate never reaches its peak" if rise >= num_steps else "the decay is cut short"
    note(
      f"{path_text(path)}: warmup{' and decay take' if fall else ' takes'} {rise + fall} steps "
      f"and the run has {num_steps}, so {cut}; a float such as warmup=0.1 is a part of the run"
    )
