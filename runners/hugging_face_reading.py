"""Parameters of ours out of a Hugging Face folder, one array at a time."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.checkpoint_inventory import array_name, named_arrays
from runners.checkpoint_reading import listed
from runners.hugging_face_config import MAY_CHANGE, differences, read_config
from runners.hugging_face_names import BUFFERS, TIED_HEAD, Match, Place, matches
from runners.safetensors_files import FLOATS, Described, TensorFolder

_PREFIXES = ("transformer.", "model.")  # a headless model's files lack it


class Tensors(Protocol):
  """Tensors of theirs: what is known of each, and each when it is asked for."""

  tensors: dict[str, Described]

  def read(self, name: str) -> np.ndarray: ...


class ParamsReader:
  """Arrays of ours by name, read when they are asked for.

  At any time it holds an array of ours and a tensor of theirs.

  Args:
    tensors: theirs.
    theirs: their config.json.
    shapes: name -> shape of every array of ours, without padding of the vocabulary.

  Raises:
    UserError: a tensor is missing, has another shape, is no float or is not used.
  """

  def __init__(
    self,
    tensors: Tensors,
    theirs: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
  ):
    self._tensors, self._shapes = tensors, shapes
    num_layers = theirs.get("num_hidden_layers") or theirs["n_layer"]
    self._found = matches(theirs["model_type"], shapes, num_layers)
    self._of: dict[str, list[tuple[Match, Place]]] = {name: [] for name in shapes}
    for match in self._found:
      for place in match.places:
        self._of[place.array].append((match, place))
    self._check()

  @property
  def num_tensors(self) -> int:
    """How many of theirs are read."""
    return len(self._found)

  def read(self, name: str) -> np.ndarray:
    """An array of ours in this process's memory, in the dtype of theirs."""
    parts = self._of[name]
    dtypes = {self._described(match).dtype for match, _ in parts}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype("float32")
    array = np.empty(self._shapes[name], dtype)
    for match, place in parts:
      shapes = [self._shape(other) for other in match.places]
      whole = self._tensors.read(self._their_name(match.name))
      part = match.tensor.split(whole, shapes)[match.places.index(place)]
      array[... if place.layer is None else place.layer] = part
    return array

  def _shape(self, place: Place) -> tuple[int, ...]:
    shape = self._shapes[place.array]
    return shape if place.layer is None else shape[1:]

  def _their_name(self, name: str) -> str:
    if name in self._tensors.tensors:
      return name
    for prefix in _PREFIXES:
      if name.removeprefix(prefix) in self._tensors.tensors:
        return name.removeprefix(prefix)
    return name

  def _described(self, match: Match) -> Described:
    return self._tensors.tensors[self._their_name(match.name)]

  def _check(self) -> None:
    there = self._tensors.tensors
    wanted = {self._their_name(match.name): match for match in self._found}
    unread = [name for name, parts in self._of.items() if not parts]
    unused = [name for name in there if name not in wanted and not self._is_buffer(name)]
    problems = [f"{name} (no such tensor there)" for name in unread]
    for name, match in wanted.items():
      shape = match.tensor.shape([self._shape(place) for place in match.places])
      if name not in there:
        problems.append(f"{name} is missing there: {did_you_mean(name, unused or there, 2)}")
      elif there[name].dtype.name not in FLOATS:
        problems.append(f"{name}: {there[name].dtype} there; known are {', '.join(FLOATS)}")
      elif there[name].shape != shape:
        problems.append(f"{name}: {there[name].shape} there, {shape} here")
    problems += [f"{name} {there[name].shape} is not used here" for name in unused]
    if problems:
      raise UserError(f"their tensors do not fit this model: {listed(problems, '; ')}")

  def _is_buffer(self, name: str) -> bool:
    """Follows from the config, or says the same as another tensor."""
    if name == TIED_HEAD:
      embedding = self._their_name(self._found[0].name)
      same = np.array_equal(self._tensors.read(name), self._tensors.read(embedding))
      if not same:
        raise UserError(
          f"their config.json ties the head to the embedding, but {name} differs from "
          f"{embedding}: set tie_word_embeddings to false there"
        )
      return True
    return any(re.search(pattern, name) for pattern in BUFFERS)


def read_params(folder: str | Path, model: Any, abstract: Any, unpadded: Any) -> Any:
  """Parameters for a run that begins with those of a Hugging Face folder.

  Args:
    folder: theirs.
    model: of the run, built.
    abstract: a tree of what is wanted: shapes, dtypes, shardings.
    unpadded: the same tree, without padding of the vocabulary.

  Raises:
    UserError: they are those of another model.
  """
  theirs = read_config(folder)
  wrong = differences(model, theirs, except_for=(*MAY_CHANGE, "max_positions"))
  if wrong:
    raise UserError(f"{folder} holds another model: {'; '.join(wrong)}")
  for line in differences(model, theirs):
    print(f"init_from   {line}")
  shapes = {name: tuple(x.shape) for name, x in named_arrays(unpadded)}
  with TensorFolder(folder) as tensors:
    reader = ParamsReader(tensors, theirs, shapes)
    return jax.tree_util.tree_map_with_path(
      lambda path, x: placed(reader.read(array_name(path)), x), abstract
    )


def placed(x: np.ndarray, wanted: Any) -> jax.Array:
  """`x` in the shape, dtype and place of `wanted`, padded with zeros on the host."""
  padding = [(0, size - had) for size, had in zip(wanted.shape, x.shape, strict=True)]
  if any(after for _, after in padding):
    x = np.pad(x, padding)
  return jax.device_put(x.astype(wanted.dtype, copy=False), wanted.sharding)


def copied_files(folder: Path) -> Sequence[Path]:
  """What goes along with a model: its config and its tokenizer, no weights."""
  weights = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
  kinds = (".json", ".model", ".txt", ".jinja")
  return sorted(
    file
    for file in folder.iterdir()
    if file.suffix in kinds and not any(kind in file.name for kind in weights)
  )
