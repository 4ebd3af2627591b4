"""Any seqio Task that a module registers, as language-modelling data.

    --load=my_lab --set=train_data=@RegisteredTask(task='wikitext', module='my_lab.tasks')

The Task's `targets` are stored as its preprocessors give them, so a Task that wants BOS or EOS
adds them itself. Nothing is trimmed to a sequence length.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from input_pipelines.allowed_packages import check_allowed
from input_pipelines.checksummed_files import DamagedFile, read_json, write_json
from input_pipelines.store_builder import Tokenised, make_cache_directory
from input_pipelines.text_data import TextData
from input_pipelines.token_store import known_cache_dir
from input_pipelines.vocabularies import Vocabulary, vocabulary_from_facts
from layers.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredTask(TextData):
  """The Task `task`, which importing `module` registers.

  The token store is rebuilt when the module's source, the Task's name, seqio's version or
  `revision` changes. Other inputs (data files, other modules, a tokenizer model) cannot be
  checked here: when one changes, set another `revision`.

  Attributes:
    task, module: see above. The user must have allowed the module's package.
    revision: any text; a new text makes a new store.
    gin: statements for gin-configurable preprocessors, which replace all bindings made by
      modules; --gin_file and --gin_bindings add to them. Other statements make another store.
      The values in force, defaults included, are saved with the run.
  """

  task: str | None = None
  module: str | None = None
  revision: str = ""
  gin: Sequence[str] = ()

  def vocabulary(self) -> Vocabulary:
    """The Task's vocabulary: from an earlier run's notes, else by importing seqio."""
    self.check()
    cache_dir = known_cache_dir()
    if cache_dir is None:
      return self._read_vocabulary()
    notes = Path(cache_dir) / "vocabularies" / f"{self._fingerprint()}.json"
    with contextlib.suppress(DamagedFile):  # or not there yet
      return vocabulary_from_facts(read_json(notes), load_seqio=self._seqio_vocabulary)
    vocabulary = self._read_vocabulary()
    make_cache_directory(notes.parent)
    write_json(notes, vocabulary.facts())
    return vocabulary

  def _read_vocabulary(self) -> Vocabulary:
    from input_pipelines.seqio_vocabularies import vocabulary_of

    return vocabulary_of(self._seqio_vocabulary())

  def document_start(self) -> None:
    """None, for unknown: a Task adds BOS itself, and may not use the vocabulary's BOS."""

  def name(self) -> str:
    return re.sub(r"[^\w.]+", "_", f"task_{self.task}")

  def identity(self) -> dict[str, Any]:
    return {"source": "seqio", "task": self.task, "fingerprint": self._fingerprint()}

  def tokenise(self) -> Tokenised:
    from input_pipelines.seqio_tasks import TokenisedTask

    return TokenisedTask(self.seqio_task(), self.split, self.gin)

  def seqio_task(self) -> Any:
    """The Task; its `targets` are rank-1 integer ids. Imports seqio and the module."""
    from input_pipelines.seqio_tasks import find_task

    self.check()
    importlib.import_module(str(self.module))
    return find_task(str(self.task), str(self.module))

  def check(self) -> None:
    if not self.task or not self.module:
      raise UserError(
        "a registered task needs its name and the module that registers it; give "
        "--set=train_data.task=NAME and --set=train_data.module=PACKAGE.MODULE"
      )
    check_allowed(str(self.module))

  def _seqio_vocabulary(self) -> Any:
    return self.seqio_task().output_features["targets"].vocabulary

  def _fingerprint(self) -> str:
    facts = (self.task, self.revision, metadata.version("seqio"), _source(str(self.module)))
    if self.gin:
      facts += (list(self.gin),)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _source(module: str) -> str:
  """The module's source text, found without running the module."""
  if "." in module:
    check_allowed(module)  # finding it imports its package
  try:
    spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:  # a parent package is missing
    spec = None
  if spec is None or not spec.origin:
    raise UserError(
      f"no module {module} on the Python path; install it, or run where it is, "
      "with PYTHONPATH=. if need be"
    )
  return Path(spec.origin).read_text()
