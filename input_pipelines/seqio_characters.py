"""Characters as a seqio vocabulary (imports TensorFlow: CharacterVocabulary.as_seqio does)."""

from collections.abc import Sequence

import numpy as np

from input_pipelines.tensorflow_import import import_seqio, import_tensorflow
from layers.errors import UserError

tf = import_tensorflow()
seqio = import_seqio()

_NUM_CODE_POINTS = 0x110000


class SeqioCharacterVocabulary(seqio.Vocabulary):
  """One id for each of `characters`, in their order; no padding, EOS or unknown id."""

  def __init__(self, characters: str):
    super().__init__()
    self.characters = characters
    # A table of all code points takes 4 MB, and looks a character up without hashing.
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
    return len(self.characters)

  def _encode(self, s: str) -> Sequence[int]:
    ids = [int(self._ids[ord(character)]) for character in s]
    if -1 in ids:
      raise UserError(f"the character {s[ids.index(-1)]!r} is not in the vocabulary")
    return ids

  def _decode(self, ids: Sequence[int]) -> str:
    return "".join(self.characters[i] for i in ids)

  def _encode_tf(self, s):
    ids = tf.gather(self._ids, tf.strings.unicode_decode(s, "UTF-8"))
    known = tf.debugging.assert_non_negative(ids, "a character outside the vocabulary")
    with tf.control_dependencies([known] if known is not None else []):
      return tf.identity(ids)

  def _decode_tf(self, ids):
    return tf.strings.unicode_encode(tf.gather(self._code_points, ids), "UTF-8")

  def __eq__(self, other: object) -> bool:
    return isinstance(other, SeqioCharacterVocabulary) and self.characters == other.characters

  def __hash__(self) -> int:
    return hash(self.characters)
