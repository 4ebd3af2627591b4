"""Safetensors files, read and written one tensor at a time, so that a model may exceed memory.

A file is the length of a header (8 bytes, little-endian), the header as JSON (name -> dtype,
shape, first and last byte) and the bytes of the tensors. A model too large for one file has
several, and an index from tensor to file.

The package `safetensors` reads them. It can only write tensors that are all in memory, so the
writer is here.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from input_pipelines.foreign_files import file_within, refuse_pointer
from input_pipelines.foreign_json import read_document
from layers.errors import UserError
from layers.suggestions import did_you_mean

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = {
  "float32": "F32",
  "float16": "F16",
  "bfloat16": "BF16",
  "float64": "F64",
}
# Further dtypes that a file may have: of buffers, or of quantised weights.
_OTHERS = {
  "BOOL": "bool",
  "F8_E4M3": "float8_e4m3fn",
  "F8_E5M2": "float8_e5m2",
  **{
    f"{kind[0].upper()}{bits}": f"{kind}{bits}"
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
  },
}
_NAMES = {**{code: name for name, code in _DTYPES.items()}, **_OTHERS}
FLOATS = tuple(_DTYPES)  # dtypes that parameters may have
MAX_INDEX_BYTES = 2**25  # DeepSeek-V3's index of 91,000 tensors takes 9 MB
_LONGEST_NAME = 200  # characters; real names have fewer than 100
_NEAR = 1_000  # "did you mean" searches so many names


class Described(NamedTuple):
  """The shape and dtype of a tensor that has not been read."""

  shape: tuple[int, ...]
  dtype: np.dtype


class TensorFolder:
  """The tensors of a folder: one file, or several with an index.

  Raises:
    UserError: there are none, a file is missing or damaged, or a dtype is unknown.
  """

  def __init__(self, folder: str | Path):
    self._folder = Path(folder)
    self._stack = contextlib.ExitStack()
    self._files: dict[str, Any] = {}
    self.tensors: dict[str, Described] = {}
    try:
      for file, names in self._layout().items():
        self._open(file, names)
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "TensorFolder":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    self._files.clear()
    self._stack.close()

  def read(self, name: str) -> np.ndarray:
    """A tensor in this process's memory."""
    return self._files[name].get_tensor(name)

  def _layout(self) -> dict[str, list[str] | None]:
    """File -> its tensors according to the index; None: all that it has."""
    if os.path.lexists(self._folder / _SINGLE):
      return {_SINGLE: None}
    if not os.path.lexists(self._folder / _INDEX):
      raise UserError(
        f"{self._folder} has no {_SINGLE} and no {_INDEX}: only safetensors are read, which "
        "save_pretrained of transformers writes of any other kind of file"
      )
    index = read_document(file_within(self._folder, _INDEX), MAX_INDEX_BYTES)
    weight_map = index.document("weight_map")
    files: dict[str, list[str] | None] = {}
    for name in weight_map.values:
      names = files.setdefault(weight_map.text(_checked(name, index.source)), [])
      assert names is not None
      names.append(name)
    return files

  def _open(self, name: str, wanted: Sequence[str] | None) -> None:
    try:
      import safetensors  # pyright: ignore[reportMissingImports]
    except ImportError as error:
      raise UserError(
        "reading safetensors needs a package that is not installed: pip install 'strata[hf]'"
      ) from error
    file = file_within(self._folder, name)
    refuse_pointer(file)
    try:
      opened = self._stack.enter_context(safetensors.safe_open(file, "np"))
    except (OSError, safetensors.SafetensorError) as error:
      raise UserError(f"{file} cannot be read: {_one_line(error)}") from error
    found = [_checked(name, str(file)) for name in list(opened.keys())]
    there = set(found)
    for tensor in found if wanted is None else wanted:
      if tensor not in there:
        raise UserError(f"{file} has no {tensor}: {did_you_mean(tensor, found[:_NEAR])}")
      part = opened.get_slice(tensor)
      code = part.get_dtype()
      if code not in _NAMES:
        raise UserError(f"{tensor} in {file} is {code}; known are {', '.join(_NAMES)}")
      self._files[tensor] = opened
      self.tensors[tensor] = Described(tuple(part.get_shape()), jnp.dtype(_NAMES[code]))


def _checked(name: str, source: str) -> str:
  """The name of a tensor; UserError unless messages can print it."""
  if len(name) > _LONGEST_NAME or not name.isprintable():
    raise UserError(f"{source}: {name[:40]!r}... is no name of a tensor")
  return name


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:_LONGEST_NAME]


def write_tensors(
  folder: Path,
  tensors: Mapping[str, Described],
  make: Callable[[str], np.ndarray],
  max_bytes: int = 5 * 10**9,
) -> list[str]:
  """Writes tensors into a folder, in files of at most `max_bytes` unless one tensor is larger.

  Args:
    folder: an existing folder.
    tensors: name -> shape and dtype of each tensor to write.
    make: name -> tensor, called once for each, in the order of `tensors` within a file; each
      is freed before the next.
    max_bytes: tensor bytes in a file.

  Returns:
    The names of the files.
  """
  shards = _shards(tensors, max_bytes)
  if len(shards) == 1:
    files = [_SINGLE]
  else:
    files = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
  for file, names in zip(files, shards, strict=True):
    _write_file(folder / file, {name: tensors[name] for name in names}, make)
  if len(shards) > 1:
    total = sum(map(_size, tensors.values()))
    pairs = zip(files, shards, strict=True)
    weight_map = {name: file for file, names in pairs for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
    files.append(_INDEX)
  return files


def dtype_of(name: str) -> np.dtype:
  """The dtype called `name`; UserError if tensors cannot be written in it."""
  if name not in _DTYPES:
    raise UserError(f"--dtype={name}: {did_you_mean(name, _DTYPES)}")
  return jnp.dtype(name)


def _size(tensor: Described) -> int:
  return int(np.prod(tensor.shape, dtype=np.int64)) * tensor.dtype.itemsize


def _shards(tensors: Mapping[str, Described], max_bytes: int) -> list[list[str]]:
  shards: list[list[str]] = [[]]
  weight = 0
  for name, tensor in tensors.items():
    if shards[-1] and weight + _size(tensor) > max_bytes:
      shards.append([])
      weight = 0
    shards[-1].append(name)
    weight += _size(tensor)
  return shards


def _write_file(
  file: Path, tensors: Mapping[str, Described], make: Callable[[str], np.ndarray]
) -> None:
  """Writes one file. A crash leaves no file of this name, or the complete one."""
  # Wide elements first, then by name: the package's order, which keeps every tensor aligned.
  order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
  unfinished = file.with_suffix(".tmp")
  with unfinished.open("wb") as stream:
    stream.write(_header([(name, tensors[name]) for name in order]))
    sizes = [_size(tensors[name]) for name in order]
    starts = dict(zip(order, itertools.accumulate(sizes, initial=stream.tell()), strict=False))
    for name in tensors:
      stream.seek(starts[name])
      x = np.asarray(make(name), tensors[name].dtype, order="C")
      assert x.shape == tensors[name].shape, (name, x.shape, tensors[name].shape)
      x.reshape(-1).view(np.uint8).tofile(stream)
      del x  # before the next one is made
  os.replace(unfinished, file)


def _header(tensors: Sequence[tuple[str, Described]]) -> bytes:
  entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers insists on it
  end = 0
  for name, tensor in tensors:
    start, end = end, end + _size(tensor)
    entries[name] = {
      "dtype": _DTYPES[tensor.dtype.name],
      "shape": list(tensor.shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(entries, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text
