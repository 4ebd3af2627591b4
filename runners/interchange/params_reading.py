"""Reads our parameters from a Hugging Face folder, one array at a time."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from input_pipelines.foreign_files import file_within, read_bytes
from input_pipelines.foreign_json import Document
from input_pipelines.progress import Progress
from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.array_names import array_name, named_arrays
from runners.checkpoints.reading import listed
from runners.interchange.array_casts import overflowing
from runners.interchange.hugging_face_config import (
  MAY_CHANGE,
  differences,
  family_of,
  fields,
  read_config,
  value_of,
)
from runners.interchange.safetensors_files import FLOATS, Described, TensorFolder
from runners.interchange.tensor_names import BUFFERS, TIED_HEAD, Match, Place, matches

_PREFIXES = ("transformer.", "model.")  # files of a headless model lack it
# "Did you mean" searches the first 1,000 names, for the first 8 missing tensors.
_NEAR, _NEAREST = 1_000, 8
MAX_COPIED_BYTES = 2**28  # of configs and tokenizers in all; the largest in use take 32 MiB


class Tensors(Protocol):
  """A collection of their tensors: name -> shape and dtype, and values on request."""

  tensors: dict[str, Described]

  def read(self, name: str) -> np.ndarray: ...


class ParamsReader:
  """Reads our arrays by name, on request.

  Memory holds at most one of our arrays and one of their tensors.

  Args:
    tensors: their tensors.
    family: a key of TENSORS.
    num_layers: of the model.
    shapes: name -> shape of every array of ours, before padding of the vocabulary.

  Raises:
    UserError: a tensor is missing, unused, not of floats, or of another shape.
  """

  def __init__(
    self,
    tensors: Tensors,
    family: str,
    num_layers: int,
    shapes: Mapping[str, tuple[int, ...]],
  ):
    self._tensors, self._shapes = tensors, shapes
    self._found = matches(family, shapes, num_layers)
    self._of: dict[str, list[tuple[Match, Place]]] = {name: [] for name in shapes}
    for match in self._found:
      for place in match.places:
        self._of[place.array].append((match, place))
    self._check()

  @property
  def num_tensors(self) -> int:
    """How many of their tensors are read."""
    return len(self._found)

  def read(self, name: str) -> np.ndarray:
    """Our array `name` in this process's memory; float32 if their tensors differ in dtype."""
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
    return _their_name(name, self._tensors.tensors)

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
        near = (unused or list(there))[:_NEAR] if len(problems) < _NEAREST else []
        cure = f": {did_you_mean(name, near, 2)}" if near else ""
        problems.append(f"{name} is missing there{cure}")
      elif there[name].dtype.name not in FLOATS:
        problems.append(f"{name}: {there[name].dtype} there; known are {', '.join(FLOATS)}")
      elif there[name].shape != shape:
        problems.append(f"{name}: {there[name].shape} there, {shape} here")
    problems += [f"{name} {there[name].shape} is not used here" for name in unused]
    if problems:
      raise UserError(f"their tensors do not fit this model: {listed(problems, '; ')}")

  def _is_buffer(self, name: str) -> bool:
    """Whether a tensor holds nothing of its own: it follows from the config or is a copy."""
    embedding = self._their_name(self._found[0].name)
    if name == TIED_HEAD and embedding in self._tensors.tensors:
      same = np.array_equal(self._tensors.read(name), self._tensors.read(embedding))
      if not same:
        raise UserError(
          f"their config.json ties the head to the embedding, but {name} differs from "
          f"{embedding}: set tie_word_embeddings to false there"
        )
      return True
    return any(re.search(pattern, name) for pattern in BUFFERS)


def check_sizes(theirs: Document, tensors: Mapping[str, Described]) -> None:
  """Compares the sizes in their config with the tensors before a model is built.

  So a small file cannot make us build a huge model.

  Raises:
    UserError: the number of layers or a width differs from the tensors.
  """
  family, said = family_of(theirs), fields(theirs)
  layer = re.compile(_LAYER_OF[family])
  numbers = {int(found[1]) for name in tensors if (found := layer.match(name))}
  if len(numbers) != said["num_layers"]:
    raise UserError(
      f"{theirs.source} says {said['num_layers']:,} layers, and the tensors beside it are of "
      f"{len(numbers):,}"
    )
  for name, shape in _expected_shapes(family, said).items():
    described = tensors.get(_their_name(name, tensors))
    if described is None:
      near = did_you_mean(name, list(tensors)[:_NEAR], 2)
      raise UserError(f"their tensors do not fit: {name} is missing there: {near}")
    if described.shape != shape:
      raise UserError(
        f"their tensors do not fit: {name} is {_shown(described.shape)}, and {theirs.source} "
        f"says {shape}"
      )


# Matches a tensor's name and captures its layer's number.
_LAYER_OF = {
  "llama": r"(?:model\.)?layers\.(\d{1,9})\.",
  "gpt2": r"(?:transformer\.)?h\.(\d{1,9})\.",
}


def _expected_shapes(family: str, said: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Name -> shape of a few tensors that together show every size in the config."""
  vocabulary, width = said["vocab_size"], said["model_dim"]
  hidden = said["block.feed_forward.hidden_dim"]
  attention = "block.attention."
  heads, kv_heads, head_dim = (
    said[attention + name] for name in ("num_heads", "num_kv_heads", "head_dim")
  )
  if family == "gpt2":
    layer = "transformer.h.0."
    return {
      "transformer.wte.weight": (vocabulary, width),
      "transformer.wpe.weight": (said["max_positions"], width),
      f"{layer}attn.c_attn.weight": (width, 3 * width),
      f"{layer}mlp.c_fc.weight": (width, hidden),
    }
  layer = "model.layers.0."
  return {
    "model.embed_tokens.weight": (vocabulary, width),
    f"{layer}self_attn.q_proj.weight": (heads * head_dim, width),
    f"{layer}self_attn.k_proj.weight": (kv_heads * head_dim, width),
    f"{layer}mlp.gate_proj.weight": (hidden, width),
  }


def _their_name(name: str, tensors: Mapping[str, Described]) -> str:
  """`name` as the files spell it, with or without a prefix; unchanged if no file has it."""
  names = (name, *(name.removeprefix(prefix) for prefix in _PREFIXES))
  return next((other for other in names if other in tensors), name)


def _shown(shape: tuple[int, ...]) -> str:
  return f"{shape}" if len(shape) <= 8 else f"of {len(shape)} dimensions"


def read_params(folder: str | Path, model: Any, abstract: Any, unpadded: Any) -> Any:
  """The parameters of a Hugging Face folder, for a run that begins with them.

  Args:
    folder: their folder.
    model: the run's model, built.
    abstract: the tree of wanted shapes, dtypes and shardings.
    unpadded: the same tree, before padding of the vocabulary.

  Raises:
    UserError: they belong to another model.
  """
  theirs = read_config(folder)
  wrong = differences(model, theirs, except_for=(*MAY_CHANGE, "max_positions"))
  if wrong:
    raise UserError(f"{folder} holds another model: {'; '.join(wrong)}")
  _check_positions(theirs, model, folder)
  for line in differences(model, theirs):
    print(f"init_from   {line}")
  shapes = {name: tuple(x.shape) for name, x in named_arrays(unpadded)}
  with TensorFolder(folder) as tensors:
    check_sizes(theirs, tensors.tensors)
    reader = ParamsReader(tensors, family_of(theirs), model.num_layers, shapes)
    with Progress(f"reading {folder}", len(shapes), "arrays") as progress:
      read = progress.counting(reader.read)
      return jax.tree_util.tree_map_with_path(
        lambda path, x: placed(read(array_name(path)), x, array_name(path)), abstract
      )


def _check_positions(theirs: Document, model: Any, folder: str | Path) -> None:
  """Raises UserError unless a table of learned positions is exactly as long as theirs."""
  there, here = fields(theirs).get("max_positions"), value_of(model, "max_positions")
  if there is not None and here is not None and there != here:
    shorter = f", and sequence_length at most {there}" if here > there else ""
    raise UserError(
      f"{folder} has learned positions for {there} tokens, and this model for {here}: "
      f"--set=model.max_positions={there}{shorter}"
    )


def placed(x: np.ndarray, wanted: Any, name: str) -> jax.Array:
  """`x` with the shape, dtype and sharding of `wanted`, padded with zeros on the host.

  Raises:
    UserError: the dtype makes a finite number of `x` infinite; the message says `name`.
  """
  value = overflowing(x, np.dtype(wanted.dtype))
  if value is not None:
    raise UserError(
      f"{name} has a value of {value:g} there, and {wanted.dtype} here ends at "
      f"{jnp.finfo(wanted.dtype).max:g}: --set=precision.param_dtype=float32"
    )
  padding = [(0, size - had) for size, had in zip(wanted.shape, x.shape, strict=True)]
  if any(after for _, after in padding):
    x = np.pad(x, padding)
  return jax.device_put(x.astype(wanted.dtype, copy=False), wanted.sharding)


def copied_files(folder: Path) -> list[Path]:
  """The files to copy with a model: config and tokenizer, no weights.

  Raises:
    UserError: one is a link that leads out of the folder or is no file, or together they
      exceed MAX_COPIED_BYTES.
  """
  weights = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
  kinds = (".json", ".model", ".txt", ".jinja")
  named = sorted(
    file.name
    for file in folder.iterdir()
    if file.suffix in kinds and not any(kind in file.name for kind in weights)
  )
  files = [file_within(folder, name) for name in named if not (folder / name).is_dir()]
  sizes = {file: file.stat().st_size for file in files if file.exists()}
  if sum(sizes.values()) > MAX_COPIED_BYTES:
    largest = max(sizes, key=lambda file: sizes[file])
    raise UserError(
      f"the files beside the model have more than {MAX_COPIED_BYTES:,} bytes, the largest of "
      f"them {largest}: they are copied, so take away what is no config and no tokenizer"
    )
  return files


def copy_file(file: Path, target: Path) -> None:
  """Copies the contents of one of `copied_files`, without its permissions or times."""
  target.write_bytes(read_bytes(file, MAX_COPIED_BYTES))
