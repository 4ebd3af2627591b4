"""Converts any seqio vocabulary to one without TensorFlow (the conversion imports it)."""

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
  """A Vocabulary without TensorFlow, with the ids of any seqio vocabulary."""
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
    counts_bytes = False  # ids do not stand for text
  else:
    pieces = [str(vocabulary.decode([i])).encode() for i in range(vocabulary.vocab_size)]
    counts_bytes = False  # decoded alone, a word lacks the spaces beside it
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
  """The BOS id, or None: then seqio's base class raises, and SentencePiece says -1."""
  try:
    bos_id = vocabulary.bos_id
  except NotImplementedError:
    return None
  return None if bos_id is None or bos_id < 0 else bos_id


def _sentencepieces(vocabulary) -> list[bytes]:
  """Pieces from the model's own table; decoding single ids would lose spaces between words."""
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
