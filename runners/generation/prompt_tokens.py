"""The ids of prompts and the ids that end a text, from a run's data or an imported tokenizer.

An imported Hugging Face model uses the tokenizer that the import copied into the run's folder;
its config's data belong to the experiment that it was imported as.
"""

import dataclasses
from pathlib import Path

import numpy as np

from input_pipelines.batches import Data
from input_pipelines.foreign_files import file_within
from input_pipelines.foreign_json import Document, read_document
from input_pipelines.tokenizer_files import load_tokenizer
from input_pipelines.tokenizer_json import ids_in_front
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from runners.interchange.hugging_face_config import CONFIG
from runners.interchange.hugging_face_import import THEIR_FILES

# In transformers' order of preference.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_GENERATION = "generation_config.json"
_EOS = "eos_token_id"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTokens:
  """How a prompt becomes ids, and which ids end a generated text.

  Attributes:
    vocabulary: of the model's ids.
    first_ids: ids put in front of every prompt.
    end_ids: each of them ends a text.
    context: an imported model's context in tokens; None: as the run's config says.
  """

  vocabulary: Vocabulary
  first_ids: tuple[int, ...] = ()
  end_ids: tuple[int, ...] = ()
  context: int | None = None

  def encode(self, prompt: str) -> np.ndarray:
    """The ids of a text that begins with `prompt`, int32 [tokens], at least one.

    Raises:
      UserError: there is no id, or the vocabulary lacks a character.
    """
    try:
      prompt.encode()
    except UnicodeEncodeError as error:  # the command line's bytes are not UTF-8
      byte = ord(prompt[error.start]) & 0xFF
      raise UserError(
        f"the prompt has the byte 0x{byte:02x} after {error.start} characters, which is no "
        "UTF-8: give text in UTF-8"
      ) from error
    ids = [*self.first_ids, *self.vocabulary.encode(prompt).tolist()]
    if not ids and self.vocabulary.bos_id is not None:
      ids = [self.vocabulary.bos_id]
    if not ids:
      raise UserError(
        "the prompt is empty, and no token begins a document here; give the first "
        "characters: --prompt=TEXT"
      )
    return np.array(ids, np.int32)


def prompt_tokens(data: Data, workdir: str | Path, num_ids: int | None) -> PromptTokens:
  """The PromptTokens of the run in `workdir`.

  Args:
    data: its training data, built.
    workdir: the run's folder.
    num_ids: the model's vocabulary size if the config sets it (imported models do), else None.

  Raises:
    UserError: the data have no vocabulary; an imported model has no tokenizer, or another
      model's.
  """
  theirs = Path(workdir) / THEIR_FILES
  if theirs.is_dir():
    return _imported(theirs, data, num_ids)
  vocabulary, start = _vocabulary(data), data.document_start()
  return PromptTokens(
    vocabulary=vocabulary,
    first_ids=() if start is None else (start,),
    end_ids=() if vocabulary.eos_id is None else (vocabulary.eos_id,),
  )


def _imported(theirs: Path, data: Data, num_ids: int | None) -> PromptTokens:
  config = _document(theirs, CONFIG)
  files = [file_within(theirs, name) for name in _TOKENIZERS if (theirs / name).is_file()]
  vocabulary = _load(files[0], data) if files else _vocabulary(data)
  if num_ids is not None and (
    vocabulary.vocab_size > num_ids or not files and vocabulary.vocab_size != num_ids
  ):
    what = f"{files[0]} has" if files else f"no tokenizer came with it, and {_name(data)} has"
    raise UserError(
      f"the imported model has {num_ids} ids, {what} {vocabulary.vocab_size}: put the model's "
      f"own tokenizer.json or tokenizer.model into {theirs}"
    )
  generation = _document(theirs, _GENERATION)
  ends = _ids(generation if _EOS in generation.values else config, _EOS)
  if ends is None:
    ends = () if vocabulary.eos_id is None else (vocabulary.eos_id,)
  return PromptTokens(
    vocabulary=vocabulary,
    first_ids=_first_ids(files[0], vocabulary) if files else _bos(vocabulary),
    end_ids=ends,
    context=config.whole("max_position_embeddings", None, at_least=1),
  )


def _vocabulary(data: Data) -> Vocabulary:
  vocabulary = data.vocabulary()
  if vocabulary is None:
    raise UserError(
      f"{_name(data)} has no vocabulary, so there is no text to continue: its rows are "
      f"{data.units}"
    )
  return vocabulary


def _load(file: Path, data: Data) -> Vocabulary:
  """Their tokenizer, read with the tokenizer options of the run's data."""
  return load_tokenizer(
    str(file),
    parse_special_tokens=getattr(data, "parse_special_tokens", False),
    pattern=getattr(data, "tokenizer_pattern", None) if file.suffix != ".json" else None,
  )


def _first_ids(file: Path, vocabulary: Vocabulary) -> tuple[int, ...]:
  """The ids that the tokenizer puts in front of a text: BOS for LLaMA, none for GPT-2."""
  return ids_in_front(str(file)) if file.suffix == ".json" else _bos(vocabulary)


def _bos(vocabulary: Vocabulary) -> tuple[int, ...]:
  return () if vocabulary.bos_id is None else (vocabulary.bos_id,)


def _name(data: Data) -> str:
  return f"train_data ({type(data).__name__})"


def _document(folder: Path, name: str) -> Document:
  """The JSON object in a file of a folder; empty without the file."""
  file = file_within(folder, name)
  return read_document(file) if file.is_file() else Document({}, str(file))


def _ids(document: Document, name: str) -> tuple[int, ...] | None:
  """The ids in a field that holds one id or a list; None if it is absent or null."""
  value = document.values.get(name)
  if not isinstance(value, list):
    one = document.whole(name, None)
    return None if one is None else (one,)
  if any(type(i) is not int or i < 0 for i in value):
    raise UserError(f"{document.source}: {name} has to be an id or a list of ids")
  return tuple(value)
