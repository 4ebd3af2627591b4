"""The ids of prompts, and which ids end a text: by a run's data, or as an imported model's own.

What a Hugging Face model's ids mean its tokenizer says, which the import put into the run's
folder; the data of such a run are those of the experiment that it was imported as.
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

# In the order in which transformers prefers them.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_GENERATION = "generation_config.json"
_EOS = "eos_token_id"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTokens:
  """How a prompt becomes ids, and where what is generated ends.

  Attributes:
    vocabulary: of the model's ids.
    first_ids: in front of every prompt.
    end_ids: each of them ends a text.
    context: tokens that the model was made for where its config does not say; else None.
  """

  vocabulary: Vocabulary
  first_ids: tuple[int, ...] = ()
  end_ids: tuple[int, ...] = ()
  context: int | None = None

  def encode(self, prompt: str) -> np.ndarray:
    """The ids of a text that begins with `prompt`, int32 [tokens], at least one.

    Raises:
      UserError: there are none, or the vocabulary lacks a character.
    """
    try:
      prompt.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are no text
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
  """Those of the run in `workdir`.

  Args:
    data: its training data, built.
    workdir: the run's folder.
    num_ids: of its model where the config says so, as an imported one's does.

  Raises:
    UserError: an imported model without a tokenizer, or with that of another model.
  """
  theirs = Path(workdir) / THEIR_FILES
  if theirs.is_dir():
    return _imported(theirs, data, num_ids)
  vocabulary, start = data.vocabulary(), data.document_start()
  return PromptTokens(
    vocabulary=vocabulary,
    first_ids=() if start is None else (start,),
    end_ids=() if vocabulary.eos_id is None else (vocabulary.eos_id,),
  )


def _imported(theirs: Path, data: Data, num_ids: int | None) -> PromptTokens:
  config = _document(theirs, CONFIG)
  files = [file_within(theirs, name) for name in _TOKENIZERS if (theirs / name).is_file()]
  vocabulary = _load(files[0], data) if files else data.vocabulary()
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


def _load(file: Path, data: Data) -> Vocabulary:
  """Their tokenizer, with what the run's data say of how tokenizers are read."""
  return load_tokenizer(
    str(file),
    parse_special_tokens=getattr(data, "parse_special_tokens", False),
    pattern=getattr(data, "tokenizer_pattern", None) if file.suffix != ".json" else None,
  )


def _first_ids(file: Path, vocabulary: Vocabulary) -> tuple[int, ...]:
  """What the tokenizer itself puts in front of a text: BOS for LLaMA, nothing for GPT-2."""
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
  """One id or a list of them; None where the field is absent or null."""
  value = document.values.get(name)
  if not isinstance(value, list):
    one = document.whole(name, None)
    return None if one is None else (one,)
  if any(type(i) is not int or i < 0 for i in value):
    raise UserError(f"{document.source}: {name} has to be an id or a list of ids")
  return tuple(value)
