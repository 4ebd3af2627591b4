"""The ids of prompts, and which ids end a text: by a run's data, or as an imported model's own.

What a Hugging Face model's ids mean its tokenizer says, which the import put into the run's
folder; the data of such a run are those of the experiment that it was imported as.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipelines.batches import Data
from input_pipelines.tokenizer_files import load_tokenizer
from input_pipelines.tokenizer_json import ids_in_front
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError
from runners.hugging_face_config import CONFIG
from runners.hugging_face_import import THEIR_FILES

# In the order in which transformers prefers them.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_GENERATION = "generation_config.json"


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
  config = _json(theirs / CONFIG)
  files = [theirs / name for name in _TOKENIZERS if (theirs / name).is_file()]
  vocabulary = _load(files[0], data) if files else data.vocabulary()
  if num_ids is not None and (
    vocabulary.vocab_size > num_ids or not files and vocabulary.vocab_size != num_ids
  ):
    what = f"{files[0]} has" if files else f"no tokenizer came with it, and {_name(data)} has"
    raise UserError(
      f"the imported model has {num_ids} ids, {what} {vocabulary.vocab_size}: put the model's "
      f"own tokenizer.json or tokenizer.model into {theirs}"
    )
  ends = _json(theirs / _GENERATION).get("eos_token_id", config.get("eos_token_id"))
  ends = vocabulary.eos_id if ends is None else ends
  return PromptTokens(
    vocabulary=vocabulary,
    first_ids=_first_ids(files[0], vocabulary) if files else _bos(vocabulary),
    end_ids=() if ends is None else tuple(ends) if isinstance(ends, list) else (ends,),
    context=config.get("max_position_embeddings"),
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


def _json(file: Path) -> Mapping[str, Any]:
  """The JSON object in a file; empty without the file."""
  try:
    return json.loads(file.read_bytes())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise UserError(f"{file} is not JSON; mend it, or take it away") from error
