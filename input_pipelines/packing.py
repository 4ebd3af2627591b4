"""Documents cut into rows of equal length: long ones split, short ones packed, none lost.

A document of L stored tokens (BOS and EOS included, where the vocabulary has them) makes
L - 1 pairs (input, target) of neighbouring tokens. The pairs of all documents, end to end,
are cut every T pairs. So every token but the first of its document is a target exactly once,
no pair reaches across two documents, and a row that begins inside a document has the true
previous token as its first input. For the documents "<cat>" and "<is it>", T = 4, where < is
BOS and > is EOS:

    documents   < c a t >   < i s _ i t >
    pairs       <c ca at t>   <i is s_ _i it t>

    row  inputs   targets  segments  positions  weights
    0    < c a t  c a t >  1 1 1 1   0 1 2 3    1 1 1 1
    1    < i s _  i s _ i  1 1 1 1   0 1 2 3    1 1 1 1
    2    i t 0 0  t > 0 0  1 1 0 0   0 1 0 0    1 1 0 0

With T = 6 row 0 holds both: inputs "< c a t < i", segments 1 1 1 1 2 2, positions 0 1 2 3 0 1.
Segments count the documents within a row, positions count within the segment: a document that
continues in the next row starts again at segment 1, position 0, as it cannot see what went
before. Padding, which only the last row has, is 0 in every field.

Letters: B rows asked for, T pairs of a row, D documents.
"""

from collections.abc import Callable

import numpy as np

from input_pipelines.batches import INPUTS, POSITIONS, SEGMENTS, TARGETS, WEIGHTS

NO_ROW = -1  # the index of a row of padding alone


class PackedRows:
  """Row r of a corpus as a function of r, gathered straight from the stored tokens."""

  def __init__(
    self,
    tokens: np.ndarray,
    offsets: np.ndarray,
    sequence_length: int,
    check: Callable[[np.ndarray, np.ndarray], None] = lambda starts, ends: None,
    weights: np.ndarray | None = None,
  ):
    """tokens: [num_tokens] ids, of which document d is tokens[offsets[d]:offsets[d + 1]].

    `weights`, [num_tokens], is the loss weight of each token where it is the target; None: 1.
    Documents of one token make no pair, so they drop out here. `check(starts, ends)` is
    called before tokens[starts[i]:ends[i]] are read; what it raises, `rows` raises.
    """
    lengths = np.diff(offsets)
    has_pairs = lengths > 1
    # The last of each is where the padding starts: a document that never ends.
    self._token_starts = np.append(offsets[:-1][has_pairs], 0)
    self._pair_starts = np.append(0, np.cumsum(lengths[has_pairs] - 1))
    self._tokens = tokens
    self._weights = weights
    self._check = check
    self.sequence_length = sequence_length
    self.num_pairs = int(self._pair_starts[-1])
    self.num_rows = -(-self.num_pairs // sequence_length)

  def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by number under seqio's keys, [B] -> each [B, T]. NO_ROW gives a row of padding."""
    segments, columns, tokens, lengths = self._pieces(indices)
    self._check(tokens, tokens + lengths + 1)
    column = np.arange(lengths.sum())
    first_column = np.repeat(columns, lengths)
    # Padding is gathered from token 0 on, which a corpus of less than one row does not fill:
    # clipping keeps that in range, and what was gathered is zeroed below.
    where = column + np.repeat(tokens - columns, lengths)
    batch = {
      INPUTS: self._tokens.take(where, mode="clip").astype(np.int32),
      TARGETS: self._tokens.take(where + 1, mode="clip").astype(np.int32),
      POSITIONS: (column - first_column).astype(np.int32),
      SEGMENTS: np.repeat(segments.astype(np.int32), lengths),
    }
    real = batch[SEGMENTS] > 0
    if not segments.all():
      batch = {key: value * real for key, value in batch.items()}
    batch[WEIGHTS] = real.astype(np.float32)
    if self._weights is not None:  # of the target, the token after the input
      batch[WEIGHTS] *= self._weights.take(where + 1, mode="clip")
    shape = (len(indices), self.sequence_length)
    return {key: value.reshape(shape) for key, value in batch.items()}

  def _pieces(
    self, indices: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The runs of one document in one row, row after row, padding among them, [pieces] each:

    segment number (0: padding), first column counted through all rows, first token, length.
    """
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
    token = np.where(
      is_padding, 0, self._token_starts[document] + start - self._pair_starts[document]
    )
    return np.where(is_padding, 0, nth + 1), column, token, length
