"""Vocabularies without TensorFlow: from ids to text and from text to ids.

Each mirrors the ids of a seqio vocabulary (`as_seqio`), which tokenises the corpus. These
vocabularies size the model, decode rows and samples, and count bytes, so that a run whose
tokens are already stored never loads TensorFlow.

Letters: V ids of the vocabulary.
"""

import abc
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from layers.errors import UserError
from layers.notices import note


class Vocabulary(abc.ABC):
  """Ids 0 .. vocab_size - 1. `bos_id` and `eos_id` are None if documents are not framed."""

  vocab_size: int
  bos_id: int | None = None
  eos_id: int | None = None

  @abc.abstractmethod
  def encode(self, text: str) -> np.ndarray:
    """The ids of `text`, int32 [tokens], without BOS and EOS; UserError if it has none."""

  @abc.abstractmethod
  def pieces(self) -> list[bytes]:
    """The UTF-8 bytes of each id's text, a list of V; empty for special tokens."""

  @abc.abstractmethod
  def as_seqio(self) -> Any:
    """The seqio.Vocabulary with these ids. Imports seqio."""

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; specials vanish, bytes that are not UTF-8 become U+FFFD."""
    pieces = self.pieces()
    return b"".join(pieces[i] for i in np.asarray(ids).tolist()).decode("utf-8", "replace")

  def continuation(self, before: Iterable[int], ids: Iterable[int]) -> str:
    """The text that `ids` add to `before`; decoded alone, they might lack a leading space."""
    before = np.asarray(before).tolist()
    start, whole = self.decode(before), self.decode([*before, *np.asarray(ids).tolist()])
    return whole[len(start) :] if whole.startswith(start) else self.decode(ids)

  def token_bytes(self) -> np.ndarray | None:
    """The number of bytes of each id's text, float32 [V], which turns nats into bits per byte.

    None if ids do not tell, as with words that lack the spaces between them.
    """
    return np.array([len(piece) for piece in self.pieces()], np.float32)

  def facts(self) -> dict[str, Any]:
    """JSON values from which `vocabulary_from_facts` can make this vocabulary again."""
    # JSON has no bytes: latin-1 maps each byte to the character of the same number.
    pieces = [piece.decode("latin-1") for piece in self.pieces()]
    return {"kind": "pieces", "pieces": pieces, "bos_id": self.bos_id, "eos_id": self.eos_id}

  def fingerprint(self) -> str:
    """A hash that is equal for equal vocabularies only."""
    return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()


class ByteVocabulary(Vocabulary):
  """UTF-8 bytes under seqio's ids: byte + 3, after 0 padding and BOS, 1 EOS, 2 unknown."""

  vocab_size = 259
  bos_id = 0
  eos_id = 1
  _NUM_SPECIALS = 3

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + self._NUM_SPECIALS

  def pieces(self) -> list[bytes]:
    return [b""] * self._NUM_SPECIALS + [bytes([byte]) for byte in range(256)]

  def as_seqio(self) -> Any:
    from input_pipelines.tensorflow_import import import_seqio

    return import_seqio().ByteVocabulary()

  def facts(self) -> dict[str, Any]:
    return {"kind": "bytes"}


class CharacterVocabulary(Vocabulary):
  """The sorted characters of a text, like nanoGPT's shakespeare_char.

  There are no special ids: Shakespeare gives exactly 65 ids. Id 0 is a character too, so
  padding is marked by segment id 0, never by the token.
  """

  def __init__(self, characters: str):
    assert list(characters) == sorted(set(characters)), "sorted characters, each once"
    self.characters = characters
    self.vocab_size = len(characters)
    self._codes = np.array([ord(character) for character in characters], np.uint32)

  def encode(self, text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    ids = np.searchsorted(self._codes, codes).clip(max=self.vocab_size - 1)
    if (unknown := self._codes[ids] != codes).any():
      raise UserError(
        f"the character {text[int(unknown.argmax())]!r} is not among the "
        f"{self.vocab_size} characters of the training text; leave it out, or train with "
        "the byte vocabulary, which knows every character"
      )
    return ids.astype(np.int32)

  def pieces(self) -> list[bytes]:
    return [character.encode() for character in self.characters]

  def as_seqio(self) -> Any:
    from input_pipelines.seqio_characters import SeqioCharacterVocabulary

    return SeqioCharacterVocabulary(self.characters)

  def facts(self) -> dict[str, Any]:
    return {"kind": "characters", "characters": self.characters}


class PieceVocabulary(Vocabulary):
  """Any other vocabulary, as the table of its pieces, which suffices for decoding.

  The table cannot tokenise: `encode` uses the seqio vocabulary that it was made from.
  """

  def __init__(
    self,
    pieces: list[bytes],
    *,
    bos_id: int | None,
    eos_id: int | None,
    load_seqio: Callable[[], Any] | None = None,
    counts_bytes: bool = True,
  ):
    """`counts_bytes`: whether a text's pieces have as many bytes as the text."""
    self.vocab_size = len(pieces)
    self.bos_id = bos_id
    self.eos_id = eos_id
    self._pieces = pieces
    self._load_seqio = load_seqio
    self._counts_bytes = counts_bytes

  def encode(self, text: str) -> np.ndarray:
    return np.array(self.as_seqio().encode(text), np.int32)

  def pieces(self) -> list[bytes]:
    return self._pieces

  def token_bytes(self) -> np.ndarray | None:
    if self._counts_bytes:
      return super().token_bytes()
    note(
      f"bits per byte are not reported: the tokens of {self._described()} do not say how many "
      "bytes of text they stand for"
    )
    return None

  def _described(self) -> str:
    return "this vocabulary"

  def facts(self) -> dict[str, Any]:
    return {**super().facts(), **({} if self._counts_bytes else {"counts_bytes": False})}

  def as_seqio(self) -> Any:
    if self._load_seqio is None:
      raise UserError(
        "these token ids were stored without their tokenizer; take the "
        "vocabulary from the data's configuration to encode text"
      )
    return self._load_seqio()


def vocabulary_from_facts(
  facts: dict[str, Any], load_seqio: Callable[[], Any] | None = None
) -> Vocabulary:
  """The vocabulary whose `facts()` these are."""
  if facts["kind"] == "bytes":
    return ByteVocabulary()
  if facts["kind"] == "characters":
    return CharacterVocabulary(facts["characters"])
  return PieceVocabulary(
    [piece.encode("latin-1") for piece in facts["pieces"]],
    bos_id=facts["bos_id"],
    eos_id=facts["eos_id"],
    load_seqio=load_seqio,
    counts_bytes=facts.get("counts_bytes", True),
  )
