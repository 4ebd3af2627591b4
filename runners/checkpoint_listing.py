"""Looking at checkpoints without the model's code: which there are, and what is in them."""

import json
import math
from pathlib import Path
from typing import Any

from layers.errors import UserError

CHECKPOINTS = "checkpoints"


def find_checkpoints(path: str) -> Path:
  """The folder of steps that `path` names: a run, or its checkpoints folder itself."""
  folder = Path(path)
  if (folder / CHECKPOINTS).is_dir():
    folder = folder / CHECKPOINTS
  if not folder.is_dir():
    raise UserError(f"no such run or checkpoint folder: {path}")
  return folder


def steps(path: str) -> list[int]:
  """The steps saved under a run, oldest first; unfinished saves have no numeric name."""
  names = (entry.name for entry in find_checkpoints(path).iterdir() if entry.is_dir())
  return sorted(int(name) for name in names if name.isdigit())


def find_step_folder(path: str, step: int | None = None) -> Path:
  """The folder of one checkpoint: of `step`, or `path` itself if it is one, or the newest."""
  if step is None and (Path(path) / "state").is_dir():
    return Path(path)
  known = steps(path)
  if not known:
    raise UserError(f"{path} holds no checkpoint")
  if step is not None and step not in known:
    raise UserError(f"{path} has no checkpoint of step {step}; it has {known}")
  return find_checkpoints(path) / str(known[-1] if step is None else step)


def best_step(path: str, metric: str, mode: str) -> int:
  """The step whose saved `metric` is best.

  Raises:
    UserError: no checkpoint was saved together with that metric.
  """
  values = {
    step: metrics[metric] for step in steps(path) if metric in (metrics := _metrics(path, step))
  }
  if not values:
    raise UserError(
      f"no checkpoint of {path} was saved with {metric}; save where you evaluate "
      "(checkpoints.every a multiple of eval_every), or name a step"
    )
  return (min if mode == "min" else max)(values, key=lambda step: values[step])


def _metrics(path: str, step: int) -> dict[str, float]:
  file = find_step_folder(path, step) / "metrics" / "metrics"
  return json.loads(file.read_text()) if file.is_file() else {}


def list_steps(path: str) -> str:
  """One line a checkpoint: step, size on disk, metric where one was saved."""
  lines = []
  for step in steps(path):
    folder = find_step_folder(path, step)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    metrics = "".join(f"  {name}={value:.4f}" for name, value in _metrics(path, step).items())
    lines.append(f"{step:>10}  {size / 1e6:>10.1f} MB{metrics}")
  return "\n".join(lines) or f"no checkpoints under {path}"


def show_step(path: str) -> str:
  """The arrays of one checkpoint: name, shape, dtype, and how many values in all."""
  import orbax.checkpoint as ocp

  folder = find_step_folder(path)
  with ocp.PyTreeCheckpointer() as checkpointer:
    metadata = checkpointer.metadata((folder / "state").absolute())
  tree: Any = getattr(metadata, "item_metadata", metadata)
  tree = getattr(tree, "tree", tree)
  rows = [
    (name, "x".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype), math.prod(leaf.shape))
    for name, leaf in _leaves(tree, ())
  ]
  width = max(len(name) for name, *_ in rows)
  lines = [f"{name:<{width}}  {shape:>16}  {dtype}" for name, shape, dtype, _ in rows]
  params = sum(size for name, _, _, size in rows if name.startswith("params/"))
  return "\n".join([f"{folder}", *lines, f"{params:,} parameters"])


def _leaves(tree: Any, path: tuple[str, ...]):
  if hasattr(tree, "shape"):
    yield "/".join(path), tree
    return
  children = tree.items() if isinstance(tree, dict) else enumerate(tree or ())
  for key, value in children:
    yield from _leaves(value, (*path, str(key)))
