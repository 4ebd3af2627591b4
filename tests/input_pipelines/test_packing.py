"""Every token but the first of its document is a target once, beside its true predecessor."""

import numpy as np
import pytest

from input_pipelines.batches import INPUTS, POSITIONS, SEGMENTS, TARGETS, WEIGHTS
from input_pipelines.packing import NO_ROW, PackedRows, PaddedRows

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


def padded_reference(tokens, offsets, T):
  """Padded rows pair by pair, in plain Python."""
  rows = []
  for document in range(len(offsets) - 1):
    places = range(offsets[document], offsets[document + 1] - 1)
    for start in range(0, len(places), T):
      row = [
        (tokens[i], tokens[i + 1], 1, n, 1) for n, i in enumerate(places[start : start + T])
      ]
      rows.append(row + [(0, 0, 0, 0, 0)] * (T - len(row)))
  return np.array(rows)  # [R, T, 5]


@pytest.mark.parametrize("sequence_length", [1, 4, 8, 16])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_a_padded_row_holds_one_document_or_a_part_of_one(lengths, sequence_length):
  tokens, offsets = corpus(lengths)
  rows = PaddedRows(tokens, offsets, sequence_length)
  want = padded_reference(tokens, offsets, sequence_length)
  assert rows.num_rows == len(want)
  indices = np.append(np.random.default_rng(0).permutation(rows.num_rows), NO_ROW)
  want = np.append(want, np.zeros_like(want[:1]), axis=0)
  for i, key in enumerate((INPUTS, TARGETS, SEGMENTS, POSITIONS, WEIGHTS)):
    np.testing.assert_array_equal(rows.rows(indices)[key], want[indices, :, i], err_msg=key)


@pytest.mark.parametrize("kind", [PackedRows, PaddedRows])
@pytest.mark.parametrize("sequence_length", [1, 4, 16, 200])
@pytest.mark.parametrize("masked", [False, True])
def test_equal_documents_weigh_1_each_however_they_are_cut(kind, sequence_length, masked):
  lengths = [40, 2, 3, 1, 17, 2, 90, 9]
  offsets = np.append(0, np.cumsum(lengths))
  document = np.repeat(np.arange(len(lengths)), lengths)
  learned = np.random.default_rng(3).integers(0, 2, offsets[-1]).astype(np.uint8)
  learned[document == 4] = 0  # nothing of it is learned
  rows = kind(
    document.astype(np.uint16) + 1,
    offsets,
    sequence_length,
    weights=learned if masked else None,
    equal_documents=True,
  )
  batch = rows.rows(np.append(np.arange(rows.num_rows), NO_ROW))
  assert batch[WEIGHTS].dtype == np.float32
  for i, length in enumerate(lengths):
    weights = batch[WEIGHTS][batch[TARGETS] == i + 1]
    sum_of_learned = learned[offsets[i] + 1 : offsets[i + 1]].sum() if masked else length - 1
    np.testing.assert_allclose(weights.sum(), float(sum_of_learned > 0), rtol=1e-6)
    values = set(np.unique(weights).tolist()) - {0.0}
    assert values <= {float(np.float32(1 / max(sum_of_learned, 1)))}
  assert not batch[WEIGHTS][batch[SEGMENTS] == 0].any()


def test_weights_of_the_whole_document_are_checked_before_they_are_summed():
  checked = []
  rows = PackedRows(
    np.arange(100, dtype=np.uint16),
    np.array([0, 50, 100]),
    4,
    lambda starts, ends: checked.extend(zip(starts.tolist(), ends.tolist(), strict=True)),
    np.ones(100, np.uint8),
    equal_documents=True,
  )
  rows.rows(np.array([3]))
  assert checked == [(12, 17), (1, 50)]
