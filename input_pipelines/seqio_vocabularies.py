"""The light vocabulary of any seqio vocabulary (imports TensorFlow)."""

from input_pipelines.seqio_characters import SeqioCharacterVocabulary
from input_pipelines.tensorflow_import import import_seqio
from input_pipelines.vocabularies import (
  ByteVocabulary,
  CharacterVocabulary,
  PieceVocabulary,
  Vocabulary,
)

seqio = import_seqio()


def vocabulary_of(vocabulary) -> Vocabulary:
  """The light vocabulary of any seqio vocabulary, with its ids."""
  if isinstance(vocabulary, SeqioCharacterVocabulary):
    return CharacterVocabulary(vocabulary.characters)
  if isinstance(vocabulary, seqio.ByteVocabulary) and not vocabulary.extra_ids:
    return ByteVocabulary()
  counts_bytes = True
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    pieces = _sentencepieces(vocabulary)
  elif isinstance(vocabulary, seqio.ByteVocabulary):
    pieces = ByteVocabulary().pieces() + [b""] * vocabulary.extra_ids
  elif isinstance(vocabulary, seqio.PassThroughVocabulary):
    pieces = [f"<{i}>".encode() for i in range(vocabulary.vocab_size)]
    counts_bytes = False  # the ids are of no text
  else:
    pieces = [str(vocabulary.decode([i])).encode() for i in range(vocabulary.vocab_size)]
    counts_bytes = False  # by itself, a word is decoded without the spaces beside it
  for special in (vocabulary.pad_id, vocabulary.eos_id):
    if special is not None and special < len(pieces):
      pieces[special] = b""
  return PieceVocabulary(
    pieces,
    bos_id=_bos_id(vocabulary),
    eos_id=vocabulary.eos_id,
    load_seqio=lambda: vocabulary,
    counts_bytes=counts_bytes,
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
