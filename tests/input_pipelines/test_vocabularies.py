"""Ids and text go back and forth, and the light ids are seqio's ids."""

import numpy as np
import pytest

from input_pipelines.vocabularies import (
  ByteVocabulary,
  CharacterVocabulary,
  PieceVocabulary,
  vocabulary_from_facts,
)
from layers.errors import UserError

TEXT = "naïve café, 東京 🙂\n"
CHARACTERS = CharacterVocabulary("".join(sorted(set(TEXT))))
PIECES = PieceVocabulary([b"", b"\xf0\x9f", b" the", b"\n"], bos_id=None, eos_id=0)


@pytest.mark.parametrize("vocabulary", [ByteVocabulary(), CHARACTERS])
def test_decoding_undoes_encoding(vocabulary):
  ids = vocabulary.encode(TEXT)
  assert ids.dtype == np.int32
  assert ids.min() >= 0 and ids.max() < vocabulary.vocab_size
  assert vocabulary.decode(ids) == TEXT
  assert vocabulary.encode("").size == 0


@pytest.mark.parametrize("vocabulary", [ByteVocabulary(), CHARACTERS])
def test_token_bytes_sum_to_the_bytes_of_the_text(vocabulary):
  table = vocabulary.token_bytes()
  assert table.shape == (vocabulary.vocab_size,) and table.dtype == np.float32
  assert table[vocabulary.encode(TEXT)].sum() == len(TEXT.encode())


def test_specials_stand_for_no_bytes_and_vanish_in_text():
  vocabulary = ByteVocabulary()
  assert vocabulary.token_bytes()[:3].tolist() == [0, 0, 0]
  framed = [vocabulary.bos_id, *vocabulary.encode("ab"), vocabulary.eos_id]
  assert vocabulary.decode(framed) == "ab"


def test_half_a_character_decodes_to_a_replacement_mark():
  assert (
    ByteVocabulary().decode(ByteVocabulary().encode("é")[:1]) == "\N{REPLACEMENT CHARACTER}"
  )


def test_a_character_vocabulary_has_exactly_its_characters():
  assert CharacterVocabulary("abc").vocab_size == 3
  assert CharacterVocabulary("abc").encode("cab").tolist() == [2, 0, 1]


def test_an_unknown_character_is_named():
  with pytest.raises(UserError, match="'z' is not among the 3 characters"):
    CharacterVocabulary("abc").encode("abz")


@pytest.mark.parametrize("vocabulary", [ByteVocabulary(), CHARACTERS, PIECES])
def test_facts_make_the_same_vocabulary_again(vocabulary):
  again = vocabulary_from_facts(vocabulary.facts())
  assert type(again) is type(vocabulary)
  assert again.pieces() == vocabulary.pieces()
  assert (again.vocab_size, again.bos_id, again.eos_id) == (
    vocabulary.vocab_size,
    vocabulary.bos_id,
    vocabulary.eos_id,
  )
  assert again.fingerprint() == vocabulary.fingerprint()


def test_different_vocabularies_have_different_fingerprints():
  vocabularies = [ByteVocabulary(), CHARACTERS, PIECES, CharacterVocabulary("abc")]
  assert len({vocabulary.fingerprint() for vocabulary in vocabularies}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [ByteVocabulary(), CHARACTERS])
def test_ids_are_those_of_the_seqio_vocabulary(vocabulary):
  mirrored = vocabulary.as_seqio()
  ids = vocabulary.encode(TEXT)
  assert mirrored.vocab_size == vocabulary.vocab_size
  assert mirrored.eos_id == vocabulary.eos_id
  assert list(mirrored.encode(TEXT)) == ids.tolist()
  np.testing.assert_array_equal(mirrored.encode_tf(TEXT).numpy(), ids)
  assert mirrored.decode(ids.tolist()) == TEXT
  assert mirrored.decode_tf(mirrored.encode_tf(TEXT)).numpy().decode() == TEXT


@pytest.mark.slow
def test_a_sentencepiece_model_is_mirrored_with_its_spaces(tmp_path):
  vocabulary = sentencepiece_vocabulary(tmp_path)
  from input_pipelines.seqio_vocabularies import vocabulary_of

  light = vocabulary_of(vocabulary)
  stored = vocabulary_from_facts(light.facts(), load_seqio=lambda: vocabulary)
  text = "the quick brown fox jumps\u00e9"
  ids = stored.encode(text)
  assert ids.tolist() == vocabulary.encode(text)
  assert stored.decode(ids) == " " + text  # SentencePiece puts a space before every text
  assert stored.token_bytes()[ids].sum() == len(text.encode()) + 1
  assert (stored.vocab_size, stored.bos_id, stored.eos_id) == (vocabulary.vocab_size, None, 1)


@pytest.mark.slow
def test_bytes_of_a_seqio_vocabulary_are_those_of_its_text_or_not_reported():
  from input_pipelines.seqio_vocabularies import vocabulary_of
  from input_pipelines.tensorflow_import import import_seqio

  seqio = import_seqio()
  light = vocabulary_of(seqio.ByteVocabulary(extra_ids=7))
  ids = light.encode(TEXT)
  assert light.vocab_size == 266 and light.decode(ids) == TEXT
  assert light.token_bytes()[ids].sum() == len(TEXT.encode())
  light = vocabulary_of(seqio.PassThroughVocabulary(9))
  stored = vocabulary_from_facts(light.facts())
  assert light.token_bytes() is None is stored.token_bytes()
  assert stored.fingerprint() == light.fingerprint()


def sentencepiece_vocabulary(folder):
  """A byte-fallback model trained on a line, with two extra ids."""
  from input_pipelines.tensorflow_import import import_seqio

  seqio = import_seqio()
  import sentencepiece

  (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
  sentencepiece.SentencePieceTrainer.train(
    input=str(folder / "text.txt"),
    model_prefix=str(folder / "model"),
    vocab_size=310,
    hard_vocab_limit=False,
    byte_fallback=True,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return seqio.SentencePieceVocabulary(str(folder / "model.model"), extra_ids=2)
