"""What goes wrong with a checkpoint: each function breaks one, given its folder."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import tensorstore

from runners.checkpoints import writing as checkpoints

Damage = Callable[[Path], None]


def _array(folder: Path) -> Path:
  """The file with the values of the largest array."""
  files = [file for file in (folder / "state").glob("params.*/*") if file.name[0].isdigit()]
  return max(files, key=lambda file: file.stat().st_size)


def flip_a_byte_of_an_array(folder: Path) -> None:
  """Within the compressed values."""
  content = bytearray(_array(folder).read_bytes())
  content[-9] ^= 0x10
  _array(folder).write_bytes(content)


def change_a_value_of_an_array(folder: Path) -> None:
  """One bit of one element, in a well-formed file."""
  store = {"driver": "file", "path": str(_array(folder).parent)}
  array = tensorstore.open({"driver": "zarr", "kvstore": store}).result()
  values = np.array(array.read().result())
  values.reshape(-1).view(np.uint8)[0] ^= 1
  array.write(values).result()


def truncate_an_array(folder: Path) -> None:
  content = _array(folder).read_bytes()
  _array(folder).write_bytes(content[: len(content) // 2])


def lose_the_values_of_an_array(folder: Path) -> None:
  _array(folder).unlink()


def lose_the_header_of_an_array(folder: Path) -> None:
  (_array(folder).parent / ".zarray").unlink()


def flip_a_byte_of_a_header(folder: Path) -> None:
  """It stays JSON, without the dtype."""
  header = _array(folder).parent / ".zarray"
  header.write_text(header.read_text().replace("dtype", "dtypu"))


def grow_a_header(folder: Path) -> None:
  """An array of a size that no memory holds."""
  header = _array(folder).parent / ".zarray"
  content = json.loads(header.read_text())
  header.write_text(json.dumps({**content, "shape": [10**9] * len(content["shape"])}))


def lose_an_array(folder: Path) -> None:
  shutil.rmtree(_array(folder).parent)


def exchange_two_arrays(folder: Path) -> None:
  """Both whole and well-formed, of the same shape, and under each other's names."""
  one, other = (
    _array(folder).parent.with_name(n) for n in ("params.kernel", "opt_state.1.0.mu.kernel")
  )
  one.rename(folder / "aside")
  other.rename(one)
  (folder / "aside").rename(other)


def empty_the_folder(folder: Path) -> None:
  shutil.rmtree(folder)
  folder.mkdir()


def lose_an_item(item: str) -> Damage:
  def lose(folder: Path) -> None:
    shutil.rmtree(folder / item)

  lose.__name__ = f"lose_the_item_{item}"
  return lose


def lose_a_file(name: str) -> Damage:
  def lose(folder: Path) -> None:
    (folder / name).unlink()

  lose.__name__ = f"lose_{name.replace('/', '_')}"
  return lose


def tear_a_file(name: str) -> Damage:
  def tear(folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])

  tear.__name__ = f"tear_{name.replace('/', '_')}"
  return tear


def change_json(name: str, *path: str) -> Damage:
  """It stays JSON of the same form, with another value."""

  def change(folder: Path) -> None:
    content = json.loads((folder / name).read_text())
    inner = content
    for key in path[:-1]:
      inner = inner[key]
    inner[path[-1]] = 999
    (folder / name).write_text(json.dumps(content))

  change.__name__ = f"change_{name.replace('/', '_')}"
  return change


def rename_to_another_number(folder: Path) -> None:
  """As a backup may be put back."""
  folder.rename(folder.with_name("999"))


@contextlib.contextmanager
def as_saved_by_older_versions() -> Iterator[None]:
  """Within, what is not finite is saved like anything else."""
  with mock.patch.object(checkpoints, "non_finite", lambda *_: ([], [])):
    yield


def as_saved_before_inventories(folder: Path) -> Path:
  """No damage: what this program saved before it had checksums."""
  shutil.rmtree(folder / "inventory")
  tell = folder / "_CHECKPOINT_METADATA"
  commit = json.loads(tell.read_text())
  del commit["item_handlers"]["inventory"]
  tell.write_text(json.dumps(commit))
  return folder


ARRAYS = [
  change_a_value_of_an_array,
  flip_a_byte_of_an_array,
  truncate_an_array,
  lose_the_values_of_an_array,
  lose_the_header_of_an_array,
  flip_a_byte_of_a_header,
  grow_a_header,
  lose_an_array,
]
FILES = [
  empty_the_folder,
  lose_an_item("state"),
  lose_an_item("run"),
  lose_an_item("inventory"),
  lose_a_file("_CHECKPOINT_METADATA"),
  lose_a_file("state/_METADATA"),
  lose_a_file("run/metadata"),
  lose_a_file("inventory/metadata"),
  tear_a_file("_CHECKPOINT_METADATA"),
  tear_a_file("state/_METADATA"),
  tear_a_file("run/metadata"),
  tear_a_file("inventory/metadata"),
  change_json("run/metadata", "data", "batch"),
  change_json("_CHECKPOINT_METADATA", "item_handlers"),
]
EVERY = [*ARRAYS, *FILES]
