"""What a checkpoint has to hold: its arrays and its JSON, each with a checksum.

The inventory is saved with the checkpoint. It is what a restore is compared with, and it has a
checksum of its own: when that is wrong, it is the inventory that is damaged.
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
    shape, dtype: as it was saved.
    unpadded: its shape without the rows that only the mesh asked for; None where nobody knows.
    checksum: of its values, see runners/checkpoints/checksums.py; None in a checkpoint that has
      none.
    infinite: whether it is right that it holds an infinity: the optimizer began with one.
  """

  shape: tuple[int, ...]
  dtype: str
  unpadded: tuple[int, ...] | None = None
  checksum: str | None = None
  infinite: bool = False


@dataclasses.dataclass(frozen=True)
class Inventory:
  """Name -> array of the state; name -> checksum of each JSON item beside it."""

  arrays: Mapping[str, SavedArray]
  documents: Mapping[str, str]

  def to_json(self) -> dict[str, Any]:
    arrays = {name: dataclasses.asdict(array) for name, array in self.arrays.items()}
    content = {_ARRAYS: arrays, _DOCUMENTS: dict(self.documents)}
    return {**content, _CHECKSUM: json_checksum(content)}

  @classmethod
  def from_json(cls, value: Any) -> "Inventory":
    """Raises ValueError, KeyError or TypeError where `value` is not what `to_json` gave."""
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
  """Of what is about to be saved. Waits for the arrays of `state`.

  Args:
    state: a tree of arrays.
    unpadded: a tree whose arrays, or descriptions of arrays, have the shapes without padding.
    documents: name -> JSON.
    infinite: names of arrays in which an infinity is right.
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
