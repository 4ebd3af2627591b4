"""The sources of the running Python's standard library: real text that is always there.

About 10 MB in some 600 files (depending on the Python version), each one document, as bytes. A
hash of its name puts about one file in twenty into `validation`, so the split does not move
when other files come or go. Tests, installed packages and generated tables (encodings, pydoc
topics, build configuration) are left out, because they would flatter the loss.
Files that are not UTF-8 are left out too, and named.
"""

import dataclasses
import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from input_pipelines.documents import PREPROCESSING, Text
from input_pipelines.store_builder import Tokenised
from input_pipelines.text_data import TextData
from input_pipelines.vocabularies import ByteVocabulary, Vocabulary
from layers.errors import UserError

TASK = "python_stdlib"
TRAIN = "train"
VALIDATION = "validation"

_LEFT_OUT_FOLDERS = frozenset(
  {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
  }
)
_LEFT_OUT_PREFIXES = ("config-", "_sysconfigdata")  # generated for this machine
_VALIDATION_FRACTION = 0.05
_FILES_PER_SHARD = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonStdlib(TextData):
  """The standard library's sources as bytes."""

  def vocabulary(self) -> Vocabulary:
    return ByteVocabulary()

  def name(self) -> str:
    return TASK

  def identity(self) -> dict[str, Any]:
    described = "".join(f"{file.name} {file.size} {file.sha256}\n" for file in _sources().files)
    return {
      "source": TASK,
      "preprocessing": PREPROCESSING,
      "files": len(_sources().files),
      "sha256": hashlib.sha256(described.encode()).hexdigest(),
    }

  def tokenise(self) -> Tokenised:
    from input_pipelines.seqio_tasks import TokenisedTask

    if names := _sources().undecodable:
      print(f"not UTF-8, left out: {', '.join(names)}", file=sys.stderr)
    return TokenisedTask(self.seqio_task(), self.split)

  def seqio_task(self) -> Any:
    """The seqio Task `python_stdlib`, registered."""
    from input_pipelines.seqio_tasks import register_documents

    return register_documents(TASK, _sources(), ByteVocabulary())

  def check(self) -> None:
    if self.split not in _Sources.splits:
      raise UserError(f"{TASK} has no split {self.split!r}; it has 'train' and 'validation'")
    if not _sources().files:
      raise UserError(
        f"this Python has no library sources in {_folder()}; use another Python, or other "
        "data, for example --set=train_data=@TextFile(path='FILE')"
      )


@dataclasses.dataclass(frozen=True)
class _File:
  """A source file: its name relative to the library, with its content's size and hash."""

  name: str
  size: int
  sha256: str

  @property
  def split(self) -> str:
    place = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") / 2**32
    return VALIDATION if place < _VALIDATION_FRACTION else TRAIN


class _Sources:
  """The library's files in the order of their names (DocumentSource)."""

  splits = (TRAIN, VALIDATION)

  def __init__(self, folder: Path):
    self._folder = folder
    self.files: list[_File] = []
    self.undecodable: list[str] = []
    for name in sorted(_names(folder)):
      content = (folder / name).read_bytes()
      try:
        content.decode()
      except UnicodeDecodeError:
        self.undecodable.append(name)
        continue
      self.files.append(_File(name, len(content), hashlib.sha256(content).hexdigest()))

  def num_shards(self, split: str) -> int:
    return -(-len(self._of(split)) // _FILES_PER_SHARD)

  def read(self, split: str, shard: int) -> Iterator[Text]:
    first = shard * _FILES_PER_SHARD
    for file in self._of(split)[first : first + _FILES_PER_SHARD]:
      content = (self._folder / file.name).read_bytes()
      if hashlib.sha256(content).hexdigest() != file.sha256:  # the identity has this hash
        raise UserError(
          f"{self._folder / file.name} changed while it was being read; start again"
        )
      yield Text(content)

  def _of(self, split: str) -> list[_File]:
    return [file for file in self.files if file.split == split]


@functools.lru_cache(maxsize=1)  # the library does not change under a running process
def _sources() -> _Sources:
  return _Sources(_folder())


def _folder() -> Path:
  return Path(sysconfig.get_path("stdlib"))


def _names(folder: Path) -> Iterator[str]:
  # Excluded folders are not entered: site-packages alone may hold tens of thousands of files.
  for parent, folders, files in os.walk(folder):
    folders[:] = filter(_is_text, folders)
    for file in filter(_is_text, files):
      if file.endswith(".py"):
        yield (Path(parent) / file).relative_to(folder).as_posix()


def _is_text(name: str) -> bool:
  return name not in _LEFT_OUT_FOLDERS and not name.startswith(_LEFT_OUT_PREFIXES)
