"""Every token but the first of its document is a target once, beside its true predecessor."""

import numpy as np
import pytest

from input_pipelines.batches import INPUTS, POSITIONS, SEGMENTS, TARGETS, WEIGHTS
from input_pipelines.packing import NO_ROW, PackedRows

BOS, EOS = ord("<"), ord(">")


def corpus(lengths, seed=0):
  tokens = np.random.default_rng(seed).integers(1, 250, sum(lengths)).astype(np.uint16)
  return tokens, np.append(0, np.cumsum(lengths)).astype(np.int64)


def all_rows(tokens, offsets, sequence_length):
  rows = PackedRows(tokens, offsets, sequence_length)
  return rows.rows(np.arange(rows.num_rows))


def reference_rows(tokens, offsets, T):
  """The same rows pair by pair, in plain Python."""
  pairs = [
    (document, int(tokens[i]), int(tokens[i + 1]))
    for document in range(len(offsets) - 1)
    for i in range(offsets[document], offsets[document + 1] - 1)
  ]
  rows = []
  for start in range(0, len(pairs), T):
    row, segment, position, previous = [], 0, 0, None
    for document, token, target in pairs[start : start + T]:
      new = document != previous
      segment, position, previous = segment + new, 0 if new else position + 1, document
      row.append((token, target, segment, position, 1))
    rows.append(row + [(0, 0, 0, 0, 0)] * (T - len(row)))
  return np.array(rows)  # [R, T, 5]


LENGTHS = {
  "one long": [100],
  "short ones": [2, 3, 2, 5, 4, 2, 2],
  "mixed": [40, 2, 3, 17, 2, 90, 9],
  "without pairs": [1, 5, 1, 1, 0, 7, 1],
  "less than a row": [3],
  "ends with a row": [9, 9],
}


@pytest.mark.parametrize("sequence_length", [1, 4, 8, 16])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_rows_are_those_of_the_plain_definition(lengths, sequence_length):
  tokens, offsets = corpus(lengths)
  got = all_rows(tokens, offsets, sequence_length)
  want = reference_rows(tokens, offsets, sequence_length)
  for i, key in enumerate((INPUTS, TARGETS, SEGMENTS, POSITIONS, WEIGHTS)):
    np.testing.assert_array_equal(got[key], want[..., i], err_msg=key)


def test_the_example_of_the_docstring_holds():
  text = "<cat><is it>"
  tokens, offsets = np.frombuffer(text.encode(), np.uint8), np.array([0, 5, 12])
  batch = all_rows(tokens, offsets, 4)

  def shown(key):
    return ["".join(chr(i) if i else "." for i in row) for row in batch[key]]

  assert shown(INPUTS) == ["<cat", "<is ", "it.."]
  assert shown(TARGETS) == ["cat>", "is i", "t>.."]
  assert batch[SEGMENTS].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
  assert batch[POSITIONS].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 0, 0]]
  longer = all_rows(tokens, offsets, 6)
  assert longer[SEGMENTS][0].tolist() == [1, 1, 1, 1, 2, 2]
  assert longer[POSITIONS][0].tolist() == [0, 1, 2, 3, 0, 1]


def test_long_documents_are_split_and_no_target_is_lost():
  tokens, offsets = corpus([1000, 2, 500, 3, 2, 700])
  batch = all_rows(tokens, offsets, 64)
  seen = batch[TARGETS][batch[WEIGHTS] > 0]
  first_tokens = np.zeros(len(tokens), bool)
  first_tokens[offsets[:-1]] = True
  np.testing.assert_array_equal(seen, tokens[~first_tokens])


def test_a_row_that_begins_inside_a_document_has_the_true_previous_token_as_input():
  tokens, offsets = corpus([20])
  batch = all_rows(tokens, offsets, 8)
  np.testing.assert_array_equal(batch[INPUTS][1:, 0], batch[TARGETS][:-1, -1])


def test_any_rows_in_any_order_are_the_rows_themselves():
  tokens, offsets = corpus(LENGTHS["mixed"])
  rows = PackedRows(tokens, offsets, 8)
  everything = rows.rows(np.arange(rows.num_rows))
  indices = np.random.default_rng(0).integers(0, rows.num_rows, 50)
  some = rows.rows(indices)
  for key, value in everything.items():
    np.testing.assert_array_equal(some[key], value[indices])


def test_no_row_is_padding_in_every_field():
  tokens, offsets = corpus(LENGTHS["less than a row"])
  batch = PackedRows(tokens, offsets, 8).rows(np.array([NO_ROW, 0, NO_ROW]))
  for value in batch.values():
    assert not value[[0, 2]].any()
  assert batch[WEIGHTS][1].sum() == 2


def test_dtypes_are_those_of_the_batch_contract():
  batch = all_rows(*corpus([30]), 8)
  assert {key: value.dtype.name for key, value in batch.items()} == {
    INPUTS: "int32",
    TARGETS: "int32",
    POSITIONS: "int32",
    SEGMENTS: "int32",
    WEIGHTS: "float32",
  }


def test_ids_beyond_16_bits_survive():
  tokens = np.array([70_000, 128_255, 1], np.uint32)
  batch = all_rows(tokens, np.array([0, 3]), 2)
  assert batch[INPUTS].tolist() == [[70_000, 128_255]]
