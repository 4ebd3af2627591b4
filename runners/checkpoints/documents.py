"""The parts of a checkpoint, and its JSON documents; its arrays are not read here.

A checkpoint is a folder checkpoints/<step> with the items

  state      the TrainState: parameters, variables, optimizer, RNG key, sums of an interval
  run        JSON: the data's position and content, the callbacks' state
  origin     JSON: the step, and the config of the run that saved it
  metrics    JSON: the metric that decides which checkpoint is best, where it is known
  inventory  JSON: the arrays and documents, with checksums

and `_CHECKPOINT_METADATA`, in which Orbax names the items and notes when the save was finished.
Orbax itself takes any numbered folder for a checkpoint. Here a document is used only if its
checksum and its form are right.
"""

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from input_pipelines.foreign_json import MAX_JSON_BYTES, Document, parse_json
from layers.errors import UserError
from runners.checkpoints.checksums import json_checksum
from runners.checkpoints.damage import DamagedCheckpoint
from runners.checkpoints.folders import is_step
from runners.checkpoints.inventory import Inventory, SavedArray

STATE, RUN, ORIGIN = "state", "run", "origin"
METRICS, INVENTORY = "metrics", "inventory"
PARAMS, VARIABLES = "params", "variables"  # fields of the state

_FILES = {
  RUN: "run/metadata",
  ORIGIN: "origin/metadata",
  METRICS: "metrics/metrics",
  INVENTORY: "inventory/metadata",
  STATE: "state/_METADATA",
}
_COMMIT = "_CHECKPOINT_METADATA"
_NOT_AS_WRITTEN = (ValueError, KeyError, TypeError, AttributeError)
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclasses.dataclass(frozen=True)
class Step:
  """A finished checkpoint whose JSON documents are intact.

  Attributes:
    folder: checkpoints/<step>.
    documents: item -> JSON object.
    arrays: name -> description of each array of the state.
  """

  folder: Path
  documents: Mapping[str, Any]
  arrays: Mapping[str, SavedArray]

  @property
  def has_checksums(self) -> bool:
    return all(array.checksum is not None for array in self.arrays.values())


def open_documents(folder: Path) -> tuple[dict[str, Any], Inventory | None]:
  """The documents of a checkpoint and its inventory (None: saved by an older version).

  Raises:
    DamagedCheckpoint: a document is missing or differs from what was saved.
  """
  items = _items(folder)
  if not {STATE, RUN} <= items:
    raise DamagedCheckpoint(f"{_COMMIT} is damaged")
  there = [item for item in (RUN, ORIGIN, METRICS) if item in items]
  documents = {item: _read_object(folder, item) for item in there}
  _read_json(folder, STATE)  # Orbax reads it too, but its errors say less
  inventory = _read_inventory(folder) if INVENTORY in items else None
  if inventory is not None:
    for item, checksum in inventory.documents.items():
      if item not in documents or json_checksum(documents[item]) != checksum:
        raise DamagedCheckpoint(f"{_FILES.get(item, item)} is not what was saved")
  _check_form(folder, documents)
  return documents, inventory


def _check_form(folder: Path, documents: Mapping[str, Any]) -> None:
  """Raises DamagedCheckpoint for documents of a form that no save writes."""
  origin = Document(documents.get(ORIGIN, {}), _FILES[ORIGIN])
  metrics = Document(documents.get(METRICS, {}), _FILES[METRICS])
  try:
    for name in metrics.values:
      metrics.number(name)
    config = origin.document("config", None)
    if config is not None:
      for path in config.values:
        config.text(path)
    step = origin.whole("step", None)
  except UserError as error:
    raise DamagedCheckpoint(str(error)) from error
  if step is None:  # older versions noted the batch alone, which was the step
    data = documents[RUN].get("data")
    step = data.get("batch") if isinstance(data, dict) else None
  if type(step) is int and is_step(folder.name) and step != int(folder.name):
    raise DamagedCheckpoint(f"it is the checkpoint of step {step} under another number")


def _read_inventory(folder: Path) -> Inventory:
  damaged = DamagedCheckpoint(
    f"its list of checksums, {_FILES[INVENTORY]}, is missing or damaged (its arrays may be "
    "intact, but nothing can tell)"
  )
  try:
    value = _read_json(folder, INVENTORY)
  except DamagedCheckpoint as error:
    raise damaged from error
  try:
    return Inventory.from_json(value)
  except _NOT_AS_WRITTEN as error:
    raise damaged from error


def _items(folder: Path) -> set[str]:
  if folder.is_dir() and not any(folder.iterdir()):
    raise DamagedCheckpoint("its folder is empty")
  try:
    commit = Document.of(_parse(_text(folder, _COMMIT), _COMMIT), _COMMIT)
    finished = commit.whole("commit_timestamp_nsecs", None)
    items = set(commit.document("item_handlers").values)
  except DamagedCheckpoint:
    raise
  except UserError as error:
    raise DamagedCheckpoint(f"{_COMMIT} is damaged") from error
  if not finished:
    raise DamagedCheckpoint("its save was not finished")
  return items


def _read_object(folder: Path, item: str) -> dict[str, Any]:
  value = _read_json(folder, item)
  if not isinstance(value, dict):
    raise DamagedCheckpoint(f"{_FILES[item]} is no JSON object")
  return value


def _read_json(folder: Path, item: str) -> Any:
  return _parse(_text(folder, _FILES[item]), _FILES[item])


def _parse(text: str, name: str) -> Any:
  try:
    return parse_json(text, name)
  except UserError as error:
    raise DamagedCheckpoint(f"{name} is no JSON") from error


def _text(folder: Path, name: str) -> str:
  """The contents of a file. If the file system fails, that is a UserError, not damage."""
  file = folder / name
  try:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON_BYTES:
      raise DamagedCheckpoint(f"{name} is no file of at most {MAX_JSON_BYTES:,} bytes")
    return file.read_text()
  except MISSING as error:
    raise DamagedCheckpoint(f"{name} is missing") from error
  except UnicodeDecodeError as error:
    raise DamagedCheckpoint(f"{name} is no text") from error
  except OSError as error:
    raise unreadable(folder, error) from error


def unreadable(folder: Path, error: OSError) -> UserError:
  """The error for a file system that fails, where the checkpoint may be intact."""
  cause = error.strerror or str(error) or type(error).__name__
  return UserError(
    f"the checkpoint {folder} cannot be read now: {cause}; nothing is changed, see to its "
    "file system and start again"
  )
