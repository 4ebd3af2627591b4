"""The vocabulary of a tokenizer file, whose library encodes, decodes and may fail.

Libraries written in Rust fail with panics, which are no subclasses of Exception. Here every
failure becomes a UserError of one line.
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from input_pipelines.vocabularies import PieceVocabulary
from layers.errors import UserError, shown
from layers.notices import note

_PANIC = "PanicException"  # of pyo3, which gives it no importable name
_SHOWN_REASON = 300  # characters of a library's own message


class FileVocabulary(PieceVocabulary):
  """A tokenizer file's pieces, with the `encode` and `decode` of the library that reads it."""

  def __init__(
    self,
    pieces: list[bytes],
    *,
    path: str,
    bos_id: int | None,
    eos_id: int | None,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str] | None = None,
    counts_bytes: bool = True,
    extra_bytes: int = 0,
    facts: dict[str, Any],
  ):
    """Raises nothing.

    Args:
      pieces: for each id the bytes of text it stands for.
      path: of the file, for messages.
      bos_id: None: the tokenizer has none.
      eos_id: likewise.
      encode: the ids of a text; may fail in any way.
      decode: the text of ids; None: the pieces, one after another.
      counts_bytes: whether a text's pieces have as many bytes as the text; if not, its bytes
        cannot be counted from ids.
      extra_bytes: how many bytes (a space) the tokenizer may put in front of a text.
      facts: further JSON values that distinguish this vocabulary from others with these pieces.
    """
    super().__init__(pieces, bos_id=bos_id, eos_id=eos_id, counts_bytes=counts_bytes)
    self._path = path
    self._encode = failing_as_user_error(encode, f"the tokenizer {path} cannot encode")
    self._decode = decode and failing_as_user_error(
      decode, f"the tokenizer {path} cannot decode"
    )
    self._facts = facts
    self._extra_bytes = extra_bytes
    self._lengths = np.array(list(map(len, pieces)), np.int64)
    self._has_told = False

  def encode(self, text: str) -> np.ndarray:
    """The ids of a text, int32 [tokens]; UserError if the tokenizer cannot encode it."""
    ids = np.array(self._encode(text), np.int32)
    if self._counts_bytes and not self._has_told:
      self._compare(len(text.encode()), int(self._lengths[ids].sum()))
    return ids

  def _compare(self, num_bytes: int, counted: int) -> None:
    """Notes once if the tokens' bytes differ from the text's, which changes bits per byte."""
    if num_bytes <= counted <= num_bytes + self._extra_bytes:
      return
    self._has_told = True
    note(
      f"the tokenizer {self._path} changes text: one of {num_bytes:,} bytes became tokens for "
      f"{counted:,}; where that is so, bits per byte are those of the changed text"
    )

  def decode(self, ids: Iterable[int]) -> str:
    if self._decode is None:
      return super().decode(ids)
    return self._decode(np.asarray(ids, np.int64).tolist())

  def _described(self) -> str:
    return self._path

  def as_seqio(self) -> NoReturn:
    raise UserError("a tokenizer file is for data that tokenise with it, such as @Jsonl")

  def facts(self) -> dict[str, Any]:
    return {**super().facts(), **self._facts}


def failing_as_user_error(call: Callable[[Any], Any], what: str) -> Callable[[Any], Any]:
  """`call`, a function of one argument, with every failure turned into a UserError."""

  def careful(argument: Any) -> Any:
    try:
      return call(argument)
    except UserError:
      raise
    except BaseException as error:
      if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
        raise  # an interruption
      reason = " ".join(str(error).split())[:_SHOWN_REASON]
      raise UserError(f"{what} {_what(argument)}: {reason}") from None

  return careful


def _what(argument: Any) -> str:
  return shown(argument) if isinstance(argument, str) else "it"


def import_for(package: str, path: str) -> Any:
  """The package that reads the file at `path`; UserError if it is not installed."""
  try:
    return importlib.import_module(package)
  except ModuleNotFoundError:
    raise UserError(
      f"{package} is needed to read the tokenizer {path}; pip install {package}"
    ) from None
