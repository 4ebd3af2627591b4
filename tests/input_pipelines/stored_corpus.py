"""A small corpus for tests of token stores, and ways to damage what is stored."""

import os
import time

import numpy as np

from input_pipelines.store_builder import Piece, open_or_build
from input_pipelines.vocabularies import ByteVocabulary

VOCABULARY = ByteVocabulary()


class Corpus:
  """Three shards of documents, some in parts, all of them different."""

  num_shards = 3
  pieces_per_shard = 40

  def __init__(self, pause_s=0.0):
    self._pause_s = pause_s
    self.read = []

  def pieces(self, shard, first):
    for number in range(first, self.pieces_per_shard):
      time.sleep(self._pause_s)
      self.read.append((shard, number))
      tokens = np.random.default_rng((shard, number)).integers(0, 259, 50 + number)
      # A part of the document before it, at a shard's start too.
      continues = number % 5 == 4 or (shard, number) == (1, 0)
      yield Piece(tokens, starts_document=not continues)

  def expected(self):
    pieces = [piece for shard in range(3) for piece in Corpus().pieces(shard, 0)]
    ends = np.cumsum([len(piece.tokens) for piece in pieces])
    starts = [
      end - len(piece.tokens)
      for piece, end in zip(pieces, ends, strict=True)
      if piece.starts_document
    ]
    return np.concatenate([piece.tokens for piece in pieces]), np.append(starts, ends[-1])


def build(path, corpus=None, **changes):
  arguments = {"identity": {}, "vocabulary": VOCABULARY, "commit_tokens": 200, **changes}
  return open_or_build(path, tokenise=lambda: corpus or Corpus(), **arguments)


def assert_complete(store):
  tokens, offsets = Corpus().expected()
  np.testing.assert_array_equal(store.tokens, tokens)
  np.testing.assert_array_equal(store.offsets, offsets)
  assert store.num_tokens == len(tokens) and store.num_documents == len(offsets) - 1


def remove(path):
  path.unlink()


def shorten(path):
  os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def empty_folder(path):
  path.mkdir()


def file_in_its_place(path):
  path.write_text("")


def json_without_entries(path):
  path.mkdir()
  (path / "index.json").write_text("[]")
