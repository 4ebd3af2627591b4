"""Whatever a checkpoint's files hold, reading them ends in one line that says it is damaged."""

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from layers.errors import UserError
from runners.callbacks import EarlyStopping, restore_callbacks
from runners.checkpoints.checksums import json_checksum
from runners.checkpoints.documents import RUN
from runners.checkpoints.listing import best_step, list_steps, show_step
from runners.checkpoints.origin import noted_config
from runners.checkpoints.reading import in_portions, open_step, read_arrays, restore_params
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.saved_run import check_saved_run
from runners.checkpoints.writing import CheckpointWriter
from tests.canary import FUZZ
from tests.runners.toy_state import abstract, toy_state

pytestmark = [
  pytest.mark.slow,
  # Orbax leaves a read that failed to the garbage collector.
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LOSS = "eval/validation/loss"
INVENTORY = "inventory/metadata"
DOCUMENTS = ["run/metadata", "origin/metadata", "metrics/metrics", INVENTORY]
FILES = [*DOCUMENTS, "_CHECKPOINT_METADATA", "state/_METADATA"]
HEADER = "state/params.kernel/.zarray"

DEEP = "[" * 100_000
VALUES = [
  None,
  True,
  -1,
  0,
  3,
  7,
  2**70,
  10**400,
  1.5,
  1e400,
  float("nan"),
  "",
  "\0",
  "float32",
]
VALUES += ["x" * 5000, "²", "../../x", "O", "f4,f4", [], [[]], [-1], [2**70], {}, {"a": {}}]


def _places(value: Any, path: tuple = ()) -> list[tuple]:
  """Paths of all that a JSON value holds."""
  inner = value.items() if isinstance(value, dict) else ()
  inner = enumerate(value) if isinstance(value, list) else inner
  found = []
  for key, child in inner:
    found += [(*path, key), *_places(child, (*path, key))]
  return found


def _mutated(content: bytes, how: int, where: int, what: int) -> bytes:
  """One thing of a JSON text is another, or it is torn, or no JSON any more."""
  if how >= 4:
    at = where % len(content)
    flipped = bytes([content[at] ^ (1 << what % 8)])
    return [content[:at], content[:at] + flipped + content[at + 1 :]][how % 2]
  if how == 3:
    return [DEEP.encode(), b"", b"\xff\xfe", b"null", b"[]", b"3"][what % 6]
  value = json.loads(content)
  places = _places(value)
  path = places[where % len(places)]
  inner = value
  for key in path[:-1]:
    inner = inner[key]
  if how == 2 or not places:
    del inner[path[-1]]
  elif how == 1 and isinstance(inner, dict):
    inner[str(VALUES[what % len(VALUES)])] = inner.pop(path[-1])
  else:
    inner[path[-1]] = VALUES[what % len(VALUES)]
  return json.dumps(value).encode()


def _with_checksums(folder: Path) -> None:
  """As somebody would forge it: every checksum of JSON is that of what is there now."""
  try:
    inventory = json.loads((folder / INVENTORY).read_text())
    for item in inventory["documents"]:
      name = "metrics/metrics" if item == "metrics" else f"{item}/metadata"
      inventory["documents"][item] = json_checksum(json.loads((folder / name).read_text()))
    content = {key: inventory[key] for key in ("arrays", "documents")}
    inventory["checksum"] = json_checksum(content)
    (folder / INVENTORY).write_text(json.dumps(inventory))
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
    return  # it cannot be forged


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checkpoints")
  writer = CheckpointWriter(folder, Checkpoints(keep_best=1), config={"seed": "0"})
  callbacks = [["EarlyStopping", EarlyStopping().state()]]
  run = {"data": {"batch": 3, "content": "a:b", "rows": 24}, "callbacks": callbacks}
  writer.save(3, toy_state(3), run, {LOSS: 1.0})
  writer.close()
  return folder


def _one_line(read):
  """Calls `read`; nothing but a UserError of one short line comes out."""
  try:
    return read()
  except UserError as error:
    assert "\n" not in str(error) and len(str(error)) < 1000
    return None


def _read_all(run: Path, name: str) -> None:
  """What starts, `ckpt` and evaluation make of the document of that name, and of the others."""
  step = _one_line(lambda: open_step(run / "3"))
  if name == "metrics/metrics":
    _one_line(lambda: list_steps(str(run)))
    _one_line(lambda: best_step(str(run), LOSS, "min"))
  if name == "origin/metadata":
    _one_line(lambda: noted_config(run.parent))
  if name == INVENTORY:
    _one_line(lambda: show_step(str(run)))
  if step is not None:
    list(in_portions(step.arrays))
    if _one_line(lambda: check_saved_run(step.documents[RUN]) or True):
      saved = step.documents[RUN]["callbacks"]
      _one_line(lambda: restore_callbacks([EarlyStopping()], saved))


def test_documents_of_any_content_are_read_or_named(saved, tmp_path, monkeypatch):
  monkeypatch.setattr("runners.checkpoints.listing.note", lambda text: None)
  folder = shutil.copytree(saved, tmp_path / "checkpoints") / "3"
  contents = {name: (folder / name).read_bytes() for name in FILES}

  @FUZZ
  @hypothesis.given(
    st.sampled_from(FILES),
    st.integers(0, 5),
    st.integers(0, 10**4),
    st.integers(0, 10**4),
    st.booleans(),
  )
  def read(name, how, where, what, forged):
    (folder / name).write_bytes(_mutated(contents[name], how, where, what))
    if forged:
      _with_checksums(folder)
    try:
      _read_all(folder.parent, name)
    finally:
      (folder / name).write_bytes(contents[name])
      (folder / INVENTORY).write_bytes(contents[INVENTORY])

  read()


def test_headers_of_any_content_are_read_or_named(saved, tmp_path):
  folder = shutil.copytree(saved, tmp_path / "checkpoints") / "3"
  content = (folder / HEADER).read_bytes()
  step = open_step(folder)
  limits = st.integers(0, 5), st.integers(0, 10**4), st.integers(0, 10**4)

  @FUZZ
  @hypothesis.given(*limits)
  def read(how, where, what):
    (folder / HEADER).write_bytes(_mutated(content, how, where, what))
    _one_line(lambda: read_arrays(step, ["params/kernel"]))

  read()


def test_a_restore_from_documents_of_any_content_ends_in_one_line(saved, tmp_path):
  folder = shutil.copytree(saved, tmp_path / "checkpoints") / "3"
  names = [INVENTORY, "state/_METADATA", HEADER]
  contents = {name: (folder / name).read_bytes() for name in names}
  wanted = abstract(toy_state(0)).params
  limits = st.integers(0, 5), st.integers(0, 10**4), st.integers(0, 10**4)

  @hypothesis.settings(FUZZ, max_examples=200)  # Orbax takes a while for each
  @hypothesis.given(st.sampled_from(names), *limits)
  @hypothesis.example("state/_METADATA", 5, 430, 0)  # an array is said to be a string
  def read(name, how, where, what):
    (folder / name).write_bytes(_mutated(contents[name], how, where, what))
    _with_checksums(folder)
    _one_line(lambda: restore_params(folder, wanted))
    (folder / name).write_bytes(contents[name])
    (folder / INVENTORY).write_bytes(contents[INVENTORY])

  read()
