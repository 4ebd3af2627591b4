"""`runner export`: writes a run's checkpoint as a Hugging Face folder, tensor by tensor."""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fiddle as fdl
import jax.numpy as jnp
import numpy as np

from input_pipelines.foreign_files import read_bytes
from input_pipelines.foreign_json import Document, read_document
from input_pipelines.progress import Progress
from layers.errors import UserError
from runners.checkpoints.finiteness import count_non_finite
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.origin import recorded_config
from runners.checkpoints.reading import (
  PARAMS,
  RUN,
  DamagedCheckpoint,
  Step,
  changed_arrays,
  listed,
  open_step,
  read_arrays,
)
from runners.checkpoints.writing import IMPORTED
from runners.interchange.array_casts import overflowing
from runners.interchange.hugging_face_config import CONFIG, is_folder_of_theirs, their_config
from runners.interchange.hugging_face_import import THEIR_FILES
from runners.interchange.hugging_face_tokenizer import tokenizer_files, unknown_tokenizer
from runners.interchange.init_from import source_of
from runners.interchange.params_reading import MAX_COPIED_BYTES, copied_files
from runners.interchange.safetensors_files import Described, dtype_of, write_tensors
from runners.interchange.tensor_names import Match, Place, matches
from runners.processes import signals

_BELOW = f"{PARAMS}/"
# Fields of a stored config.json to drop: the new one has them in the form all releases read.
_SAID_ANEW = ("rope_parameters", "original_max_position_embeddings", "torch_dtype")
_WRITTEN = (CONFIG, "model*.safetensors", "model*.safetensors.index.json", "model*.tmp")


def export_folder(
  workdir: str, to: str, *, step: int | None = None, dtype: str | None = None
) -> None:
  """Writes config.json, safetensors and, if they are known, the tokenizer's files.

  Args:
    workdir: the run's folder.
    to: a folder without a model; made if it does not exist.
    step: the checkpoint's step; None: the newest.
    dtype: dtype of all tensors; None: the checkpoint's dtypes.

  Raises:
    UserError: neither Hugging Face family can represent the model, its data have no vocabulary,
      `to` holds a model, or a number is infinite in `dtype`.
    DamagedCheckpoint: an array differs from what was saved; the files written are removed.
  """
  chosen = None if dtype is None else dtype_of(dtype)
  config, _ = recorded_config(workdir).replayed()
  folder = find_step_folder(workdir, step).absolute()
  source = _Source(_open(folder))
  known = _known_files(Path(workdir), config.init_from)
  stored = _stored(known)
  theirs = _their_config(config, source, stored)
  found = matches(theirs["model_type"], source.shapes, config.model.num_layers)
  _check_complete(found, source)
  beside = _beside(known, config, source, workdir)
  target = Path(to)
  _check_free(target, beside)
  tensors = {match.name: source.described(match, chosen) for match in found}
  _check_range(found, source, chosen)
  # transformers reads all tensors in this dtype: the smallest that loses nothing of any.
  theirs["dtype"] = functools.reduce(
    jnp.promote_types, [tensor.dtype for tensor in tensors.values()]
  ).name
  same_family = stored.get("model_type") == theirs["model_type"]
  text = {**(stored if same_family else _token_ids(config, source)), **theirs}
  described = (json.dumps(text, indent=2, sort_keys=True) + "\n").encode()
  _write(target, tensors, {match.name: match for match in found}, source, beside, described)
  names = sorted({tensor.dtype.name for tensor in tensors.values()})
  print(f"exported    {len(tensors)} tensors in {', '.join(names)}, of {folder}")
  print(f"to          {to}: {theirs['architectures'][0]}")


def _write(
  target: Path,
  tensors: Mapping[str, Described],
  matched: Mapping[str, Match],
  source: "_Source",
  beside: Mapping[str, bytes],
  config: bytes,
) -> None:
  """Writes config.json last, so a folder with one is complete. An error removes all files."""
  try:
    target.mkdir(parents=True, exist_ok=True)
    with Progress("exporting", len(tensors), "tensors") as progress:
      read = progress.counting(lambda name: source.read(matched[name]))
      write_tensors(target, tensors, read)
    for name, content in {**beside, CONFIG: config}.items():
      (target / name).write_bytes(content)
  except BaseException as error:
    for file in itertools.chain(*map(target.glob, _WRITTEN), map(target.joinpath, beside)):
      with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
    if isinstance(error, OSError):
      raise UserError(f"cannot write into {target}: {error.strerror or error}") from error
    raise


def _beside(
  known: list[Path], config: fdl.Config, source: "_Source", workdir: str
) -> dict[str, bytes]:
  """Name -> contents of the tokenizer's files: the imported ones, or made for this run."""
  files = {
    file.name: read_bytes(file, MAX_COPIED_BYTES) for file in known if file.name != CONFIG
  }
  if files or source.is_imported:
    return files
  try:
    data: Any = fdl.build(config.train_data)
    if data.vocabulary() is not None:
      return tokenizer_files(data, workdir)
  except UserError as error:
    return unknown_tokenizer(workdir, str(error))
  raise UserError(
    f"{workdir} learned from {data.units} without a vocabulary (train_data is "
    f"{type(data).__name__}): only models of text are exported"
  )


def _check_free(target: Path, beside: Mapping[str, bytes]) -> None:
  if os.path.lexists(target / CONFIG) or any(target.glob("*.safetensors")):
    raise UserError(f"{target} holds a model already: choose another --to")
  there = [name for name in beside if os.path.lexists(target / name)]
  if there:
    raise UserError(f"{target} holds {listed(there)} already: choose another --to")


def _check_range(found: list[Match], source: "_Source", dtype: np.dtype | None) -> None:
  """Raises UserError if a finite number would be written as an infinite one."""
  if dtype is None:
    return
  for match in found:
    value = overflowing(source.read(match), dtype)
    if value is not None:
      raise UserError(
        f"{match.name} has a value of {value:g}, and {dtype} ends at {jnp.finfo(dtype).max:g}: "
        "choose another --dtype, or leave it out"
      )


class _Source:
  """The parameters of a checkpoint: their descriptions, and their values one at a time."""

  def __init__(self, step: Step):
    self._step = step
    self.is_imported = IMPORTED in step.documents[RUN]
    arrays = {n.removeprefix(_BELOW): x for n, x in step.arrays.items() if n.startswith(_BELOW)}
    self.shapes = {name: x.unpadded or x.shape for name, x in arrays.items()}
    self._dtypes = {name: x.dtype for name, x in arrays.items()}
    self._kept: dict[str, np.ndarray] = {}

  def described(self, match: Match, dtype: np.dtype | None) -> Described:
    shapes = [self._shape(place) for place in match.places]
    own = dtype_of(self._dtypes[match.places[0].array])
    return Described(match.tensor.shape(shapes), own if dtype is None else dtype)

  def read(self, match: Match) -> np.ndarray:
    """Their tensor, made of our arrays; those stay in memory for their next layers."""
    signals.check()
    names = [place.array for place in match.places]
    # Frees other arrays before these are read.
    self._kept = {name: x for name, x in self._kept.items() if name in names}
    return match.tensor.join([self._part(place) for place in match.places])

  def _shape(self, place: Place) -> tuple[int, ...]:
    shape = self.shapes[place.array]
    return shape if place.layer is None else shape[1:]

  def _part(self, place: Place) -> np.ndarray:
    x = self._array(place.array)
    return x if place.layer is None else x[place.layer]

  def _array(self, name: str) -> np.ndarray:
    """A parameter, verified and without padding."""
    if name not in self._kept:
      array = read_arrays(self._step, [_BELOW + name])
      if changed_arrays(self._step, array):
        raise DamagedCheckpoint(f"{self._step.folder}: {_BELOW + name} is not what was saved")
      whole = array[_BELOW + name]
      if count := count_non_finite(whole):
        raise UserError(
          f"{self._step.folder}: {count} of the {whole.size} values of {_BELOW + name} are not "
          "finite, and nobody could use them: export another --step"
        )
      self._kept[name] = whole[tuple(slice(size) for size in self.shapes[name])]
    return self._kept[name]


def _open(folder: Path) -> Step:
  try:
    return open_step(folder)
  except DamagedCheckpoint as error:
    raise DamagedCheckpoint(f"the checkpoint {folder} is damaged: {error}") from error


def _their_config(
  config: fdl.Config, source: _Source, stored: Mapping[str, Any]
) -> dict[str, Any]:
  """Their config.json, from the run's config, its checkpoint's shapes and a `stored` config."""
  shapes = source.shapes
  if "embedding/table" not in shapes:
    raise UserError("the checkpoint has no embedding/table: only Decoder models are exported")
  if "positions/table" in shapes:
    positions = shapes["positions/table"][0]
  else:  # rotary: the longest length of training, in this run or before it
    before = Document(stored, "the config.json that this run began with")
    positions = max(config.sequence_length, before.whole("max_position_embeddings", 0))
  model = fdl.build(config.model)
  return their_config(model, shapes["embedding/table"][0], positions)


def _check_complete(found: list[Match], source: _Source) -> None:
  covered = {place.array for match in found for place in match.places}
  left = sorted(source.shapes.keys() - covered)
  if left:
    raise UserError(f"Hugging Face has no tensor for {', '.join(left[:5])}")


def _known_files(workdir: Path, began_with: Any) -> list[Path]:
  """Config and tokenizer files that came with the parameters, by import or by init_from."""
  if (workdir / THEIR_FILES).is_dir():
    return list(copied_files(workdir / THEIR_FILES))
  if began_with is None:
    return []
  source = source_of(began_with).path
  if is_folder_of_theirs(source):
    return list(copied_files(Path(source)))
  before = Path(source) / THEIR_FILES
  return list(copied_files(before)) if before.is_dir() else []


def _stored(known: list[Path]) -> dict[str, Any]:
  """Fields of their original config.json, such as ids of special tokens, that export keeps."""
  file = next((file for file in known if file.name == CONFIG), None)
  stored = read_document(file).values if file else {}
  return {name: value for name, value in stored.items() if name not in _SAID_ANEW}


def _token_ids(config: fdl.Config, source: _Source) -> dict[str, Any]:
  """The ids that begin and end a text. Without them transformers takes GPT-2's or LLaMA's.

  They are None, as unknown, for an imported parameter file and for a missing tokenizer.
  """
  first = last = None
  if not source.is_imported:
    try:
      data: Any = fdl.build(config.train_data)
      first, vocabulary = data.document_start(), data.vocabulary()
      last = None if vocabulary is None else vocabulary.eos_id
    except UserError as error:
      print(f"token ids   none in config.json, for {error}")
  return {"bos_token_id": first, "eos_token_id": last}
