"""Any seqio Task as language-modelling data: one that a colleague's module registers.

    --load=my_lab --set=train_data=@RegisteredTask(task='wikitext', module='my_lab.tasks')

The Task's `targets` are stored as they come out of its preprocessors: a Task that wants BOS
or EOS adds them itself. Nothing is trimmed to a sequence length.
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

  The token store is made anew when the module's source, the Task's name, seqio's version or
  `revision` change. What else the tokens come from (data files, other modules, a tokenizer
  model) cannot be seen from here: when that changes, set another `revision`.

  Attributes:
    task, module: see above. The module's package has to be one that the user has allowed.
    revision: any text; another one, another store.
    gin: statements for preprocessors that are gin-configurable, in place of all that the
      modules bind themselves; --gin_file and --gin_bindings add to them. With others the token
      store is another. What was in force, defaults included, is saved with the run.
  """

  task: str | None = None
  module: str | None = None
  revision: str = ""
  gin: Sequence[str] = ()

  def vocabulary(self) -> Vocabulary:
    """From the notes of an earlier run; the first one has to import seqio."""
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
    """Unknown: a Task that wants BOS adds it itself, and its vocabulary may have one unused."""

  def name(self) -> str:
    return re.sub(r"[^\w.]+", "_", f"task_{self.task}")

  def identity(self) -> dict[str, Any]:
    return {"source": "seqio", "task": self.task, "fingerprint": self._fingerprint()}

  def tokenise(self) -> Tokenised:
    from input_pipelines.seqio_tasks import TokenisedTask

    return TokenisedTask(self.seqio_task(), self.split, self.gin)

  def seqio_task(self) -> Any:
    """The Task, with `targets` that can be stored. Imports seqio and the module."""
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
  """The module's source, found without running it."""
  if "." in module:
    check_allowed(module)  # finding it imports the package that it is in
  try:
    spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:  # a package on the way to it
    spec = None
  if spec is None or not spec.origin:
    raise UserError(
      f"no module {module} on the Python path; install it, or run where it is, "
      "with PYTHONPATH=. if need be"
    )
  return Path(spec.origin).read_text()
