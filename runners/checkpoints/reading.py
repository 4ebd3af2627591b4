"""Reads a checkpoint and verifies every value, since Orbax restores changed bytes silently.

runners/checkpoints/documents.py lists the parts of a checkpoint.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from layers.errors import UserError
from runners.array_names import array_name, named_arrays
from runners.checkpoints.array_fitting import dividing, fit
from runners.checkpoints.checksums import array_checksums
from runners.checkpoints.damage import DamagedCheckpoint, listed, reason
from runners.checkpoints.documents import (
  METRICS,
  MISSING,
  PARAMS,
  RUN,
  STATE,
  VARIABLES,
  Step,
  open_documents,
  unreadable,
)
from runners.checkpoints.inventory import SavedArray
from runners.checkpoints.orbax_metadata import state_metadata
from runners.checkpoints.stores import check_headers, has_stores, read_stores

__all__ = [
  "METRICS",
  "PARAMS",
  "RUN",
  "DamagedCheckpoint",
  "Step",
  "changed_arrays",
  "in_portions",
  "listed",
  "open_step",
  "read_arrays",
  "restore",
  "restore_model",
  "restore_params",
  "restore_some",
]

_BYTES_AT_ONCE = 2**26


def open_step(folder: Path) -> Step:
  """Reads a checkpoint except the values of its arrays.

  Raises:
    DamagedCheckpoint: a part is missing or differs from what was saved.
  """
  folder = folder.absolute()
  documents, inventory = open_documents(folder)
  if inventory is None:
    return Step(folder, documents, _described(folder))
  return Step(folder, documents, inventory.arrays)


def _described(folder: Path) -> dict[str, SavedArray]:
  """Orbax's own description of the arrays, without checksums."""
  with _damage(folder):
    return {
      name: SavedArray(tuple(leaf.shape), str(leaf.dtype))
      for name, leaf in named_arrays(state_metadata(folder))
    }


@contextlib.contextmanager
def _damage(folder: Path, what: str = "its arrays") -> Iterator[None]:
  """Turns an error while reading into a DamagedCheckpoint, unless the machine is at fault."""
  try:
    yield
  except (DamagedCheckpoint, MemoryError):
    raise
  except Exception as error:  # Orbax has no class of its own for damaged files
    if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
      raise  # a device or the host is out of memory
    if isinstance(error, OSError) and not isinstance(error, MISSING):
      raise unreadable(folder, error) from error
    cause = error.__cause__ or error  # tensorstore's, which names the file
    raise DamagedCheckpoint(f"{what} cannot be read: {reason(cause)}") from error


def restore(
  step: Step, abstract: Any, unpadded: Any = None, below: str | tuple[str, ...] = ""
) -> Any:
  """The arrays of a checkpoint, laid out as `abstract` says, their values verified.

  Vocabulary padding, which depends on the mesh, is cut or added, and dtypes are converted, as
  `abstract` demands.

  Args:
    step: the checkpoint to read.
    abstract: the saved tree or a part of it: shapes, dtypes, shardings.
    unpadded: the same tree with the shapes before padding.
    below: restores only arrays whose names begin with it, or with one of them.

  Raises:
    UserError: an array is missing from the checkpoint or from `abstract`, or its shape differs.
    DamagedCheckpoint: an array differs from what was saved.
  """
  wanted = dict(named_arrays(abstract))
  real = {name: tuple(x.shape) for name, x in named_arrays(unpadded)}  # empty for None
  saved = {name: array for name, array in step.arrays.items() if name.startswith(below)}
  _check_fits(step, saved, wanted, real)
  if has_stores(step.folder):
    check_headers(step.folder, saved)
  as_saved = lambda path, x: _as_saved(saved[array_name(path)], x)
  target = jax.tree_util.tree_map_with_path(as_saved, abstract)
  if below:
    arrays = dict(named_arrays(_read(step, target, partial=True)))
  else:
    read = _read_all(step, dict(named_arrays(target)))
    arrays = {name: read[name] for name in wanted}  # a line on damage names them in this order
  _verify(step, arrays)
  fitted = lambda path, x: fit(arrays[array_name(path)], x)
  return jax.tree_util.tree_map_with_path(fitted, abstract)


def restore_some(
  step: Step, wanted: Mapping[str, Any], unpadded: Mapping[str, Any]
) -> dict[str, jax.Array]:
  """Some arrays of a checkpoint by name, laid out and verified as in `restore`.

  Args:
    step: the checkpoint, which has all of these arrays.
    wanted: name in the checkpoint -> shape, dtype and sharding.
    unpadded: name in the checkpoint -> shape before padding.

  Raises:
    UserError: an array has another shape.
    DamagedCheckpoint: an array differs from what was saved.
  """
  saved = {name: step.arrays[name] for name in wanted}
  _check_fits(step, saved, wanted, {name: tuple(x.shape) for name, x in unpadded.items()})

  if has_stores(step.folder):
    check_headers(step.folder, step.arrays)  # Orbax opens all of them

  arrays = _read_all(step, {name: _as_saved(saved[name], wanted[name]) for name in wanted})
  arrays = {name: arrays[name] for name in wanted}
  _verify(step, arrays)
  return {name: fit(arrays[name], wanted[name]) for name in wanted}


def _read_all(step: Step, targets: Mapping[str, Any]) -> dict[str, Any]:
  """Name -> array of the checkpoint; an array without a target is not read.

  Orbax demands the whole saved tree. It also compares empty branches, such as the variables of
  a model that has none, which checkpoints of earlier versions lack: so the tree is theirs.
  """
  choose = lambda path, _: targets.get(array_name(path), ocp.PLACEHOLDER)
  with _damage(step.folder):
    target = jax.tree_util.tree_map_with_path(choose, state_metadata(step.folder))
  return dict(named_arrays(_read(step, target, partial=False)))


def _as_saved(array: SavedArray, wanted: Any) -> jax.ShapeDtypeStruct:
  """The request to Orbax: the saved shape and dtype, in the wanted sharding."""
  sharding = wanted.sharding and dividing(wanted.sharding, array.shape)
  return jax.ShapeDtypeStruct(array.shape, _dtype(array.dtype), sharding=sharding)


def restore_params(folder: Path, abstract: Any, unpadded: Any = None) -> Any:
  """Only the parameters of the checkpoint `folder`, laid out and verified as in `restore`.

  Raises:
    UserError: they belong to another model.
    DamagedCheckpoint: they differ from what was saved; the message names the folder.
  """
  return _restore_named(
    folder, {PARAMS: abstract}, None if unpadded is None else {PARAMS: unpadded}
  )[PARAMS]


def restore_model(folder: Path, state: Any, unpadded: Any) -> tuple[Any, Any]:
  """Parameters and variables of the checkpoint `folder`, as `restore_params` has the former.

  Args:
    folder: of the step.
    state, unpadded: with `params` and `variables`, of which see `restore`.
  """
  names = [PARAMS, *([VARIABLES] if jax.tree.leaves(state.variables) else [])]
  part = lambda tree: {name: getattr(tree, name) for name in names}
  found = _restore_named(folder, part(state), part(unpadded))
  return found[PARAMS], found.get(VARIABLES, state.variables)


def _restore_named(folder: Path, wanted: dict[str, Any], unpadded: Any) -> dict[str, Any]:
  below = tuple(f"{name}/" for name in wanted)
  try:
    return restore(open_step(folder), wanted, unpadded, below)
  except DamagedCheckpoint as error:
    raise DamagedCheckpoint(
      f"the checkpoint {folder} is damaged: {error}; name another step"
    ) from error


def _check_fits(
  step: Step,
  saved: Mapping[str, SavedArray],
  wanted: Mapping[str, Any],
  real: Mapping[str, tuple[int, ...]],
) -> None:
  """Raises UserError unless names and shapes agree, apart from padding."""

  def fits(name: str) -> bool:
    if name not in saved or name not in wanted:
      return False
    array, shape = saved[name], tuple(wanted[name].shape)
    return array.shape == shape or array.unpadded == real.get(name, shape)

  differing = [name for name in sorted(saved.keys() | wanted.keys()) if not fits(name)]
  if differing:
    there = {name: array.shape for name, array in saved.items()}
    here = {name: tuple(x.shape) for name, x in wanted.items()}
    shapes = [
      f"{name}: {there.get(name, 'missing')} there, {here.get(name, 'none')} here"
      for name in differing
    ]
    raise UserError(
      f"the arrays of {step.folder} do not fit this model: {listed(shapes, '; ')}"
    )


def _dtype(name: str) -> np.dtype:
  return jnp.dtype(name)  # unlike numpy's, knows bfloat16


def _read(step: Step, target: Any, *, partial: bool) -> Any:
  with _damage(step.folder), ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(
      step.folder / STATE,
      args=ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=partial,
      ),
    )


def _verify(step: Step, arrays: Mapping[str, Any]) -> None:
  """Raises DamagedCheckpoint unless these arrays, in their saved form, match the checksums."""
  changed = changed_arrays(step, arrays)
  if changed:
    raise DamagedCheckpoint(f"not what was saved: {listed(changed)}")


def changed_arrays(step: Step, arrays: Mapping[str, Any]) -> list[str]:
  """The names of arrays whose values differ from the saved ones."""
  known = {name: x for name, x in arrays.items() if step.arrays[name].checksum is not None}
  # Orbax hands back the request where damaged metadata name a type that is no array.
  read = {
    name: x for name, x in known.items() if isinstance(x, np.ndarray | np.generic | jax.Array)
  }
  checksums = array_checksums(read)
  return [name for name in known if checksums.get(name) != step.arrays[name].checksum]


# Without the model's code


def read_arrays(step: Step, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Some arrays of a checkpoint, in this process's memory and not verified.

  Raises:
    DamagedCheckpoint: they cannot be read.
  """
  if has_stores(step.folder):
    return read_stores(step.folder, {name: step.arrays[name] for name in names})
  with _damage(step.folder, listed(names)), ocp.PyTreeCheckpointer() as checkpointer:
    tree = state_metadata(step.folder)
    chosen = lambda path, leaf: leaf if array_name(path) in names else ocp.PLACEHOLDER
    target = jax.tree_util.tree_map_with_path(chosen, tree)
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    restored = checkpointer.restore(
      step.folder / STATE, args=ocp.args.PyTreeRestore(target, restore_args=how)
    )
    found = dict(named_arrays(restored))
    return {name: np.asarray(found[name]) for name in names}


def in_portions(arrays: Mapping[str, SavedArray]) -> Iterator[list[str]]:
  """Names in groups; a group takes at most 64 MiB, or the largest array's size if greater."""
  size = lambda name: math.prod(arrays[name].shape) * _dtype(arrays[name].dtype).itemsize
  limit = max([_BYTES_AT_ONCE, *map(size, arrays)])
  portion: list[str] = []
  weight = 0
  for name in arrays:
    if portion and weight + size(name) > limit:
      yield portion
      portion, weight = [], 0
    portion.append(name)
    weight += size(name)
  if portion:
    yield portion
