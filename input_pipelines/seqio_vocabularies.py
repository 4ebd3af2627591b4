"""The seqio side of the vocabularies (imports TensorFlow; reach it through `as_seqio`)."""

from collections.abc import Sequence

import numpy as np

from input_pipelines.tensorflow_import import import_seqio, import_tensorflow
from input_pipelines.vocabularies import (
  ByteVocabulary,
  CharacterVocabulary,
  PieceVocabulary,
  Vocabulary,
)

tf = import_tensorflow()
seqio = import_seqio()

_NUM_CODE_POINTS = 0x110000


class SeqioCharacterVocabulary(seqio.Vocabulary):
  """CharacterVocabulary for tf.data: one id a character, no padding, EOS or unknown id."""

  def __init__(self, characters: str):
    super().__init__()
    self._numpy = CharacterVocabulary(characters)
    # One gather a character: a table of all code points is 4 MB and needs no hashing.
    self._code_points = np.array([ord(character) for character in characters], np.int32)
    self._ids = np.full(_NUM_CODE_POINTS, -1, np.int32)
    self._ids[self._code_points] = np.arange(len(characters))

  @property
  def bos_id(self) -> int | None:
    return None

  @property
  def eos_id(self) -> int | None:
    return None

  @property
  def unk_id(self) -> int | None:
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self._numpy.vocab_size

  def _encode(self, s: str) -> Sequence[int]:
    return self._numpy.encode(s).tolist()

  def _decode(self, ids: Sequence[int]) -> str:
    return self._numpy.decode(ids)

  def _encode_tf(self, s):
    ids = tf.gather(self._ids, tf.strings.unicode_decode(s, "UTF-8"))
    known = tf.debugging.assert_non_negative(ids, "a character outside the vocabulary")
    with tf.control_dependencies([known] if known is not None else []):
      return tf.identity(ids)

  def _decode_tf(self, ids):
    return tf.strings.unicode_encode(tf.gather(self._code_points, ids), "UTF-8")

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, SeqioCharacterVocabulary)
      and self._numpy.characters == other._numpy.characters
    )

  def __hash__(self) -> int:
    return hash(self._numpy.characters)


def vocabulary_of(vocabulary) -> Vocabulary:
  """The light vocabulary of any seqio vocabulary, with its ids."""
  if isinstance(vocabulary, SeqioCharacterVocabulary):
    return vocabulary._numpy
  if isinstance(vocabulary, seqio.ByteVocabulary) and not vocabulary.extra_ids:
    return ByteVocabulary()
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    pieces = _sentencepieces(vocabulary)
  elif isinstance(vocabulary, seqio.PassThroughVocabulary):
    pieces = [f"<{i}>".encode() for i in range(vocabulary.vocab_size)]
  else:
    pieces = [str(vocabulary.decode([i])).encode() for i in range(vocabulary.vocab_size)]
  for special in (vocabulary.pad_id, vocabulary.eos_id):
    if special is not None and special < len(pieces):
      pieces[special] = b""
  return PieceVocabulary(
    pieces, bos_id=_bos_id(vocabulary), eos_id=vocabulary.eos_id, load_seqio=lambda: vocabulary
  )


def _bos_id(vocabulary) -> int | None:
  """seqio's base class raises where a vocabulary has none; SentencePiece says -1."""
  try:
    bos_id = vocabulary.bos_id
  except NotImplementedError:
    return None
  return None if bos_id is None or bos_id < 0 else bos_id


def _sentencepieces(vocabulary) -> list[bytes]:
  """The model's own table: decoding ids one by one would lose the spaces between words."""
  model = vocabulary.tokenizer

  def piece(i: int) -> bytes:
    if i >= model.GetPieceSize() or model.IsControl(i):  # extra ids are sentinels
      return b""
    if model.IsByte(i):  # "<0x0A>"
      return bytes([int(model.IdToPiece(i)[1:-1], 16)])
    if model.IsUnknown(i):
      return "\N{REPLACEMENT CHARACTER}".encode()
    return model.IdToPiece(i).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

  return [piece(i) for i in range(vocabulary.vocab_size)]
