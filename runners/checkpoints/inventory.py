"""The inventory of a checkpoint: its arrays and JSON documents, each with a checksum.

It is saved with the checkpoint, and restored values are compared with it. Its own checksum
tells a damaged inventory from a damaged array.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from input_pipelines.foreign_json import Document
from runners.array_names import named_arrays
from runners.checkpoints.checksums import array_checksums, json_checksum

_ARRAYS, _DOCUMENTS, _CHECKSUM = "arrays", "documents", "checksum"


@dataclasses.dataclass(frozen=True)
class SavedArray:
  """An array of a checkpoint.

  Attributes:
    shape, dtype: as saved.
    unpadded: its shape without the padding rows for the mesh; None if unknown.
    checksum: of its values (runners/checkpoints/checksums.py); None in older checkpoints.
    infinite: whether it may hold an infinity, because the optimizer's initial state does.
  """

  shape: tuple[int, ...]
  dtype: str
  unpadded: tuple[int, ...] | None = None
  checksum: str | None = None
  infinite: bool = False


@dataclasses.dataclass(frozen=True)
class Inventory:
  """Name -> array of the state, and name -> checksum of each JSON document."""

  arrays: Mapping[str, SavedArray]
  documents: Mapping[str, str]

  def to_json(self) -> dict[str, Any]:
    arrays = {name: dataclasses.asdict(array) for name, array in self.arrays.items()}
    content = {_ARRAYS: arrays, _DOCUMENTS: dict(self.documents)}
    return {**content, _CHECKSUM: json_checksum(content)}

  @classmethod
  def from_json(cls, value: Any) -> "Inventory":
    """Inverse of `to_json`; raises ValueError, KeyError or TypeError for any other `value`."""
    inventory = Document.of(value, "the inventory")
    arrays, documents = inventory.document(_ARRAYS), inventory.document(_DOCUMENTS)
    content = {_ARRAYS: arrays.values, _DOCUMENTS: documents.values}
    if inventory.text(_CHECKSUM) != json_checksum(content):
      raise ValueError("its own checksum is another one")
    if not arrays.values:
      raise ValueError("it lists no array")
    return cls(
      {name: _array_of(arrays.document(name)) for name in arrays.values},
      {name: documents.text(name) for name in documents.values},
    )


def _array_of(noted: Document) -> SavedArray:
  dtype = noted.text("dtype")
  if not (jnp.issubdtype(dtype, jnp.number) or dtype == "bool"):
    raise ValueError(f"no array has the dtype {dtype!r}")
  unpadded = noted.list("unpadded", None)
  return SavedArray(
    shape=_shape_of(noted.list("shape")),
    dtype=dtype,
    unpadded=None if unpadded is None else _shape_of(unpadded),
    checksum=noted.text("checksum", None),
    infinite=noted.flag("infinite", False),  # older versions do not say it
  )


def _shape_of(sizes: list[Any]) -> tuple[int, ...]:
  if not all(type(size) is int and 0 <= size < 2**40 for size in sizes) or len(sizes) > 7:
    raise ValueError(f"no array has the shape {sizes}")
  return tuple(sizes)


def take_inventory(
  state: Any,
  unpadded: Any,
  documents: Mapping[str, Any],
  infinite: Collection[str] = (),
) -> Inventory:
  """The inventory of a state that is about to be saved. Waits for its arrays.

  Args:
    state: a tree of arrays.
    unpadded: a tree of arrays, or of their descriptions, with the shapes before padding.
    documents: name -> JSON.
    infinite: names of arrays that may hold an infinity.
  """
  arrays = dict(named_arrays(state))
  shapes = {name: tuple(array.shape) for name, array in named_arrays(unpadded)}
  checksums = array_checksums(arrays)
  return Inventory(
    {
      name: SavedArray(
        tuple(x.shape), str(x.dtype), shapes.get(name), checksums[name], name in infinite
      )
      for name, x in arrays.items()
    },
    {name: json_checksum(value) for name, value in documents.items()},
  )
