"""Cuts documents into rows of equal length: long ones split, short ones packed, none lost.

A document of L stored tokens (BOS and EOS included, if the vocabulary has them) makes L - 1
pairs (input, target) of neighbouring tokens. The pairs of all documents, end to end, are cut
every T pairs. So every token except its document's first is a target exactly once, no pair
spans two documents, and a row that begins inside a document has the true previous token as its
first input. For the documents "<cat>" and "<is it>", T = 4, where < is BOS and > is EOS:

    documents   < c a t >   < i s _ i t >
    pairs       <c ca at t>   <i is s_ _i it t>

    row  inputs   targets  segments  positions  weights
    0    < c a t  c a t >  1 1 1 1   0 1 2 3    1 1 1 1
    1    < i s _  i s _ i  1 1 1 1   0 1 2 3    1 1 1 1
    2    i t 0 0  t > 0 0  1 1 0 0   0 1 0 0    1 1 0 0

With T = 6 row 0 holds both: inputs "< c a t < i", segments 1 1 1 1 2 2, positions 0 1 2 3 0 1.
Segments count the documents within a row, and positions count within a segment. A document that
continues in the next row starts there at segment 1, position 0, as it cannot see its earlier
tokens. Padding, which only the last row has, is 0 in every field.

Padded rows hold one document each, from column 0, followed by padding; a document of more than
T pairs takes several rows. With T = 6: "< c a t 0 0", "< i s _ i t".

Letters: B rows asked for, T pairs of a row, D documents.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from input_pipelines.batches import INPUTS, POSITIONS, SEGMENTS, TARGETS, WEIGHTS

NO_ROW = -1  # the index of a row of padding alone


class _Pieces(NamedTuple):
  """Runs of one document (or padding) in a row, row after row; arrays [pieces]."""

  segment: np.ndarray  # 0: padding
  column: np.ndarray  # first column, counted through all rows
  document: np.ndarray
  token: np.ndarray  # first token
  length: np.ndarray


class Rows(Protocol):
  """Row r as a function of r."""

  num_rows: int

  def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by number, [B] -> key -> [B, ...]; NO_ROW gives a row of padding with weight 0.

    Text has seqio's keys, each [B, T].
    """
    ...


class TokenRows(Rows, Protocol):
  """Rows whose tokens can be counted, as a mixture counts those of each source."""

  def num_tokens(self, indices: np.ndarray) -> np.ndarray:
    """The number of tokens in each of these rows, without padding, [B] -> [B]."""
    ...


class DocumentRows(abc.ABC):
  """Rows of one corpus, gathered straight from the stored tokens."""

  num_rows: int

  def __init__(
    self,
    tokens: np.ndarray,
    offsets: np.ndarray,
    sequence_length: int,
    check: Callable[[np.ndarray, np.ndarray], None] = lambda starts, ends: None,
    weights: np.ndarray | None = None,
    equal_documents: bool = False,
  ):
    """tokens: [num_tokens] ids; document d is tokens[offsets[d]:offsets[d + 1]].

    `weights`, [num_tokens], is each token's loss weight as a target; None: 1. With
    `equal_documents` they are divided by their sum over the document, so that every document
    counts the same, whatever its length and number of rows. Documents of one token make no
    pair, so they are dropped. `check(starts, ends)` is called before tokens[starts[i]:ends[i]]
    are read; `rows` passes its errors on.
    """
    lengths = np.diff(offsets)
    has_pairs = lengths > 1
    # The last entry stands for padding, as a document that never ends.
    self._token_starts = np.append(offsets[:-1][has_pairs], 0)
    self._lengths = np.append(lengths[has_pairs] - 1, 0)  # in pairs
    self._pair_starts = np.append(0, np.cumsum(self._lengths[:-1]))
    self._tokens = tokens
    self._weights = weights
    self._equal_documents = equal_documents
    self._check = check
    self.sequence_length = sequence_length
    self.num_pairs = int(self._pair_starts[-1])

  @abc.abstractmethod
  def _pieces(self, indices: np.ndarray) -> _Pieces:
    """The pieces of the rows with these numbers."""

  def num_tokens(self, indices: np.ndarray) -> np.ndarray:
    T = self.sequence_length
    pieces = self._pieces(indices)
    counts = np.zeros(len(indices), np.int64)
    np.add.at(counts, pieces.column // T, np.where(pieces.segment > 0, pieces.length, 0))
    return counts

  def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    pieces = self._pieces(indices)
    lengths = pieces.length
    self._check(pieces.token, pieces.token + lengths + 1)
    column = np.arange(lengths.sum())
    first_column = np.repeat(pieces.column, lengths)
    # Padding is gathered from token 0 on, and zeroed below; clipping is for a corpus shorter
    # than a row.
    where = column + np.repeat(pieces.token - pieces.column, lengths)
    batch = {
      INPUTS: self._tokens.take(where, mode="clip").astype(np.int32),
      TARGETS: self._tokens.take(where + 1, mode="clip").astype(np.int32),
      POSITIONS: (column - first_column).astype(np.int32),
      SEGMENTS: np.repeat(pieces.segment.astype(np.int32), lengths),
    }
    real = batch[SEGMENTS] > 0
    if not pieces.segment.all():
      batch = {key: value * real for key, value in batch.items()}
    batch[WEIGHTS] = real.astype(np.float32)
    if self._weights is not None:  # of the target, the token after the input
      batch[WEIGHTS] *= self._weights.take(where + 1, mode="clip")
    if self._equal_documents:
      batch[WEIGHTS] *= np.repeat(self._shares(pieces.document), lengths)
    shape = (len(indices), self.sequence_length)
    return {key: value.reshape(shape) for key, value in batch.items()}

  def _shares(self, documents: np.ndarray) -> np.ndarray:
    """1 / the sum of each document's loss weights, float32; 1 if nothing is learned."""
    unique, back = np.unique(documents, return_inverse=True)
    sums = self._lengths[unique]
    if self._weights is not None:
      starts = self._token_starts[unique] + 1
      self._check(starts, starts + sums)
      places = zip(starts, starts + sums, strict=True)
      sums = np.array([self._weights[start:end].sum(dtype=np.int64) for start, end in places])
    return (1 / np.maximum(sums, 1)).astype(np.float32)[back]


class PackedRows(DocumentRows):
  """Documents end to end."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.num_rows = -(-self.num_pairs // self.sequence_length)

  def _pieces(self, indices: np.ndarray) -> _Pieces:
    T, padding = self.sequence_length, len(self._pair_starts) - 1
    starts = np.where(indices == NO_ROW, self.num_pairs, indices * T)  # [B], in pairs
    first = np.searchsorted(self._pair_starts, starts, "right") - 1
    last = np.searchsorted(self._pair_starts, starts + T, "left") - 1
    counts = last - first + 1
    row = np.repeat(np.arange(len(indices)), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    document = first[row] + nth
    start = np.maximum(self._pair_starts[document], starts[row])
    is_padding = document == padding
    column = row * T + start - starts[row]
    length = np.diff(column, append=len(indices) * T)
    token = self._token_starts[document] + start - self._pair_starts[document]
    return _Pieces(
      np.where(is_padding, 0, nth + 1),
      column,
      document,
      np.where(is_padding, 0, token),
      length,
    )


class PaddedRows(DocumentRows):
  """A row for each document, several for one that is longer than a row."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    num_rows = -(-self._lengths // self.sequence_length)
    self._row_starts = np.append(0, np.cumsum(num_rows[:-1]))
    self.num_rows = int(self._row_starts[-1])

  def _pieces(self, indices: np.ndarray) -> _Pieces:
    T, padding = self.sequence_length, len(self._pair_starts) - 1
    rows = np.where(indices == NO_ROW, self.num_rows, indices)
    document = np.searchsorted(self._row_starts, rows, "right") - 1  # [B]
    start = (rows - self._row_starts[document]) * T  # in pairs of the document
    length = np.minimum(self._lengths[document] - start, T)
    column = np.arange(len(indices)) * T
    none = np.zeros_like(length)
    # A piece of the document, then one of padding; either may be empty.
    pairs = (
      (none + 1, none),
      (column, column + length),
      (document, none + padding),
      (self._token_starts[document] + start, none),
      (length, T - length),
    )
    pieces = np.stack([np.stack(pair, axis=1).ravel() for pair in pairs])
    return _Pieces(*pieces[:, pieces[-1] > 0])
