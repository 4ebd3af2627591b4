"""Lists checkpoints and their contents without the model's code."""

import math
from pathlib import Path

from input_pipelines.foreign_json import read_document
from layers.errors import UserError
from layers.notices import note
from runners.checkpoints.folders import CHECKPOINTS, SET_ASIDE, is_step, saved_steps

_PARAMS = "params/"


def find_checkpoints(path: str) -> Path:
  """The folder of steps that `path` names: a run, or its checkpoints folder itself."""
  folder = Path(path)
  if (folder / CHECKPOINTS).is_dir():
    folder = folder / CHECKPOINTS
  if not folder.is_dir():
    raise UserError(f"no such run or checkpoint folder: {path}")
  return folder


def steps(path: str) -> list[int]:
  """The steps saved under a run, oldest first."""
  return saved_steps(find_checkpoints(path))


def find_step_folder(path: str, step: int | None = None) -> Path:
  """The folder of checkpoint `step`; without a step, `path` itself if it is one, or the newest.

  Raises:
    UserError: there is none.
  """
  if step is None:
    return find_step_folders(path)[-1]
  known = steps(path)
  if step not in known:
    raise UserError(f"{path} has no checkpoint of step {step}; it has {known}")
  return find_checkpoints(path) / str(step)


def find_step_folders(path: str) -> list[Path]:
  """The folders of all checkpoints of a run, oldest first, or `path` itself if it is one.

  Raises:
    UserError: there is none.
  """
  folder = Path(path)
  inner = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
  is_named_like_one = is_step(folder.name.partition(SET_ASIDE)[0])
  if (folder / "state").is_dir() or (is_named_like_one and not saved_steps(inner)):
    return [folder]  # perhaps with nothing in it
  directory = find_checkpoints(path)
  known = saved_steps(directory)
  if not known:
    raise UserError(f"{path} holds no checkpoint")
  return [directory / str(step) for step in known]


def best_step(path: str, metric: str, mode: str) -> int:
  """The step whose saved `metric` is best.

  Raises:
    UserError: no checkpoint was saved together with that metric.
  """
  from runners.checkpoints.reading import METRICS, DamagedCheckpoint, open_step

  values = {}
  for folder in find_step_folders(path):
    try:
      metrics = open_step(folder).documents.get(METRICS, {})
    except DamagedCheckpoint as error:
      note(f"Checkpoint {folder.name} is damaged and passed over: {error}.")
      continue
    if metric in metrics:
      values[int(folder.name)] = metrics[metric]
  if not values:
    raise UserError(
      f"no checkpoint of {path} was saved with {metric}; save where you evaluate "
      "(checkpoints.every a multiple of eval_every), or name a step"
    )
  return (min if mode == "min" else max)(values, key=lambda step: values[step])


def _metrics(path: str, step: int) -> dict[str, float]:
  file = find_step_folder(path, step) / "metrics" / "metrics"
  if not file.is_file():
    return {}
  try:
    document = read_document(file)
    return {name: document.number(name) for name in document.values}
  except UserError:
    note(f"{file} is damaged: step {step} counts as one without metrics.")
    return {}


def list_steps(path: str) -> str:
  """One line for each checkpoint: step, size on disk, metrics saved with it."""
  metrics = {step: _metrics(path, step) for step in steps(path)}
  if not metrics:
    return f"no checkpoints under {path}"
  names = list(dict.fromkeys(name for values in metrics.values() for name in values))
  lines = ["  ".join([f"{'step':>10}", f"{'size':>13}", *names])]
  for step, values in metrics.items():
    folder = find_step_folder(path, step)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    cells = (f"{values[n]:.4f}" if n in values else "-" for n in names)
    columns = [f"{cell:>{len(name)}}" for name, cell in zip(names, cells, strict=True)]
    lines.append("  ".join([f"{step:>10}", f"{size / 1e6:>10.1f} MB", *columns]))
  return "\n".join(lines)


def show_step(path: str) -> str:
  """The arrays of one checkpoint, parameters first, and the number of parameters."""
  from runners.checkpoints.reading import open_step

  folder = find_step_folder(path)
  rows = [
    (name, "x".join(map(str, array.shape)) or "scalar", array.dtype, math.prod(array.shape))
    for name, array in open_step(folder).arrays.items()
  ]
  rows.sort(key=lambda row: not row[0].startswith(_PARAMS))  # stable: the rest as stored
  width = max(len(name) for name, *_ in rows)
  lines = [f"{name:<{width}}  {shape:>16}  {dtype}" for name, shape, dtype, _ in rows]
  params = sum(size for name, _, _, size in rows if name.startswith(_PARAMS))
  return "\n".join([f"{folder}", *lines, f"{params:,} parameters"])
