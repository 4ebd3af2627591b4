"""Short runs of registered experiments on several meshes, for a process that simulates them."""

import json
from pathlib import Path
from typing import Any

import fiddle as fdl

from runners import schedules
from runners.configs.tree import flatten
from runners.devices.meshes import MeshShape
from runners.trainer import Precision
from tests.experiments.shrinking import ENTRIES, shrink
from tests.runners.mesh_report import report


def tiny(
  name: str, text_file: str, mesh: dict[str, int], microbatch_size: int | None = None
) -> fdl.Config:
  """In float32, with one width for all: experiments that differ only in size become equal."""
  config = shrink(ENTRIES[name].experiment().config(), Path(text_file))
  config.precision = fdl.Config(Precision, compute_dtype="float32")
  config.model.model_dim = 16
  attention = config.model.block.attention
  if getattr(attention, "rotary", None):
    attention.rotary.theta = 10_000.0
    config.model.block.feed_forward.hidden_dim = 32
    config.model.norm.epsilon = config.model.block.norm.epsilon = 1e-5
  config.model.num_layers = (
    2 if config.model.scan_layers else 1
  )  # what is unrolled compiles long
  if getattr(config.model, "vocab_size", None):
    config.model.vocab_size = 301  # more than the data has, like the published ones, and odd
  config.optimizer.learning_rate = fdl.Config(
    schedules.warmup_cosine, peak=1e-3, end=1e-4, warmup=0.1
  )
  config.eval_data = {}
  config.batch_size, config.microbatch_size, config.num_steps = 16, microbatch_size, 20
  config.mesh = fdl.Config(MeshShape, **mesh)
  return config


def program(name: str) -> str:
  """What the tiny form computes: where two agree, the runs of one are those of the other."""
  config = tiny(name, "text", {})
  for apart in ("log_every", "eval_every", "checkpoints", "callbacks", "writers"):
    delattr(config, apart)
  return json.dumps(flatten(config))


def runs(
  name: str, text_file: str, cases: list[tuple[dict, int | None]], num_steps: int
) -> Any:
  """The report of each case: a mesh and a microbatch_size."""
  reports = [report(tiny(name, text_file, *case), num_steps) for case in cases]
  return [
    {key: made[key] for key in ("params", "losses", "padding_is_zero")} for made in reports
  ]
