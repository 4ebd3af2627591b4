"""Begins a fresh run with another run's parameters or whole state, or a Hugging Face model.

Prints three lists: arrays loaded, arrays missing in the source, arrays unused from it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from layers.errors import UserError
from layers.suggestions import nearest
from runners.array_names import array_name, named_arrays
from runners.checkpoints.documents import VARIABLES
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import (
  PARAMS,
  RUN,
  DamagedCheckpoint,
  Step,
  listed,
  open_step,
  restore_some,
)
from runners.checkpoints.writing import IMPORTED
from runners.interchange.hugging_face_config import is_folder_of_theirs
from runners.interchange.init_from import InitFrom, check_source, source_of
from runners.interchange.params_reading import read_params
from runners.train_state import Initializer, TrainState

_BELOW = f"{PARAMS}/"
_LISTED = 24


def warm_state(
  value: Any, model: Any, initializer: Initializer
) -> tuple[TrainState, dict[str, Any] | None]:
  """The state that a fresh run begins with; prints which arrays were loaded.

  Loaded arrays are not initialised first, so none is in memory twice.

  Args:
    value: the field init_from.
    model: the run's model, built.
    initializer: gives the run's shapes, and initial values of missing arrays.

  Returns:
    The state, and with `everything` the JSON saved beside it, else None.

  Raises:
    UserError: the arrays do not fit.
    DamagedCheckpoint: an array differs from what was saved.
  """
  source = source_of(value)
  check_source(source)
  if is_folder_of_theirs(source.path):
    wanted = initializer.abstract.params, initializer.unpadded().params
    params = read_params(source.path, model, *wanted)
    _print_lists(Path(source.path).absolute(), _shapes(params), {}, {})
    return initializer.init_around(params), None
  folder = find_step_folder(source.path).absolute()
  try:
    step = open_step(folder)
    if source.everything and IMPORTED in step.documents[RUN]:
      raise UserError(f"init_from: {source.path} holds parameters alone, not everything")
    state = _from_checkpoint(source, step, initializer)
  except DamagedCheckpoint as error:
    raise DamagedCheckpoint(
      f"the checkpoint {folder} is damaged: {error}; name another step"
    ) from error
  return state, step.documents[RUN] if source.everything else None


def _from_checkpoint(source: InitFrom, step: Step, initializer: Initializer) -> TrainState:
  abstract = initializer.abstract
  below = (_BELOW, *(f"{VARIABLES}/{name}/" for name in initializer.kept_by_model))
  asked = lambda name: source.everything or name.startswith(below)
  wanted = {name: x for name, x in named_arrays(abstract) if asked(name)}
  real = dict(named_arrays(initializer.unpadded()))
  there = {here: at for here, at in _renamed(step, source.rules).items() if asked(here)}
  loaded = {here: at for here, at in there.items() if here in wanted}
  missing = {here: tuple(x.shape) for here, x in wanted.items() if here not in there}
  unused = {
    at if at == here else f"{at}, here {here}": step.arrays[at].shape
    for here, at in there.items()
    if here not in wanted
  }
  if source.strict and (missing or unused):
    raise UserError(_unfitting(step, missing, unused))
  fresh = dict(named_arrays(initializer.init())) if missing else {}
  fresh = {name: fresh[name] for name in missing}
  at_names = lambda leaves: {at: leaves[here] for here, at in loaded.items()}
  arrays = restore_some(step, at_names(wanted), at_names(real)) if loaded else {}
  _print_lists(step.folder, {here: wanted[here].shape for here in loaded}, missing, unused)

  def choose(path: Any, _: Any) -> Any:
    name = array_name(path)
    return arrays[loaded[name]] if name in loaded else fresh[name]

  if source.everything:
    return jax.tree_util.tree_map_with_path(choose, abstract)
  kept = {name: abstract.variables[name] for name in initializer.kept_by_model}
  model = {PARAMS: abstract.params, VARIABLES: kept}
  model = jax.tree_util.tree_map_with_path(choose, model)
  return initializer.init_around(model[PARAMS], model[VARIABLES])


def _renamed(step: Step, rules: Sequence[tuple[str, str]]) -> dict[str, str]:
  """Name here -> name in the checkpoint, for the whole state."""
  new: dict[str, str] = {}
  for at in step.arrays:
    if at.startswith(_BELOW):
      name = at.removeprefix(_BELOW)
      new[name] = name
      for pattern, replacement in rules:
        new[name] = re.sub(pattern, replacement, new[name])
  found: dict[str, str] = {}
  for at in step.arrays:
    name = _with_new_end(at, new)
    if name in found:
      raise UserError(f"init_from: its rules give {found[name]} and {at} one name, {name}")
    found[name] = at
  return found


def _with_new_end(name: str, new: Mapping[str, str]) -> str:
  """`name` with its ending, a parameter's name, replaced by the parameter's new name."""
  parts = name.split("/")
  for start in range(1, len(parts)):
    end = "/".join(parts[start:])
    if end in new:
      return "/".join([*parts[:start], new[end]])
  return name


def _unfitting(step: Step, missing: Mapping[str, Any], unused: Mapping[str, Any]) -> str:
  def like(name: str, others: Mapping[str, Any]) -> str:
    close = nearest(name, others, 1)
    return f", like {close[0]}" if close else ""

  parts = [f"{name}: missing there{like(name, unused)}" for name in missing]
  parts += [
    f"{name}: {shape} there, not used{like(name, missing)}" for name, shape in unused.items()
  ]
  return (
    f"the arrays of {step.folder} do not fit this model: {listed(parts, '; ')} "
    "(init_from=@InitFrom(path=..., rules=..., strict=False) renames, or takes what fits)"
  )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {_BELOW + name: tuple(x.shape) for name, x in named_arrays(tree)}


def _print_lists(
  folder: Path,
  loaded: Mapping[str, Sequence[int]],
  missing: Mapping[str, Sequence[int]],
  unused: Mapping[str, Sequence[int]],
) -> None:
  print(f"init_from   {folder}")
  for what, shapes in (("loaded", loaded), ("missing", missing), ("unused", unused)):
    note = ", begin as in any run" if what == "missing" and shapes else ""
    print(f"  {what:<10}{len(shapes)}{note}")
    lines = _lines(shapes)
    for line in lines[:_LISTED]:
      print(f"    {line}")
    if len(lines) > _LISTED:
      print(f"    and {len(lines) - _LISTED} lines more")


def _lines(shapes: Mapping[str, Sequence[int]]) -> list[str]:
  """Name and shape of each array; equal layers share a line."""
  alike: dict[tuple[str, str], list[str]] = {}
  for name, shape in shapes.items():
    text = "x".join(map(str, shape)) or "scalar"
    alike.setdefault((re.sub(r"(?<=/)\d+(?=/)", "*", name), text), []).append(name)
  return [
    f"{names[0]}  {text}" if len(names) == 1 else f"{name}  {len(names)} of {text}"
    for (name, text), names in alike.items()
  ]
