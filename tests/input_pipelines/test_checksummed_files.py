"""A file that is not what was written is told from one that is, wherever the change is."""

import json

import numpy as np
import pytest

from input_pipelines.checksummed_files import (
  BLOCK_BYTES,
  CheckedBlocks,
  DamagedFile,
  block_checksums,
  map_array,
  read_json,
  write_json,
)

ENTRIES = {"b": [1, 2.5, None], "a": "é", "nested": {"x": True}}


def test_json_comes_back_as_it_was_written(tmp_path):
  write_json(tmp_path / "a.json", ENTRIES)
  assert read_json(tmp_path / "a.json") == ENTRIES
  assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_with_any_entry_changed_is_damaged(tmp_path):
  path = tmp_path / "a.json"
  write_json(path, ENTRIES)
  written = json.loads(path.read_text())
  for key in written:
    path.write_text(json.dumps({**written, key: 3}))
    with pytest.raises(DamagedFile, match="a.json does not have its own checksum"):
      read_json(path)
  path.write_text(json.dumps(written)[:-1])
  with pytest.raises(DamagedFile, match="a.json is not JSON"):
    read_json(path)
  with pytest.raises(DamagedFile, match="none.json is missing"):
    read_json(tmp_path / "none.json")


@pytest.mark.parametrize("cuts", [[], [1], [7, 65536], [65535, 65537, 131072], [100_000]])
def test_checksums_do_not_depend_on_how_a_file_was_appended(cuts):
  data = np.random.default_rng(0).integers(0, 1 << 16, 100_001).astype(np.uint16)
  want, want_unfinished = block_checksums(data)
  assert len(want) == data.nbytes // BLOCK_BYTES and want_unfinished
  got, start, unfinished = [], 0, 0
  for part in np.split(data, cuts):
    checksums, unfinished = block_checksums(part, start, unfinished)
    got, start = [*got, *checksums], start + part.nbytes
  assert (got, unfinished) == (want.tolist(), want_unfinished)


def test_stretches_outside_the_array_are_clipped():
  data = np.arange(10, dtype=np.int32)
  blocks = CheckedBlocks("x", data, np.array([block_checksums(data)[1]], np.uint32))
  blocks.check(np.array([0, 0]), np.array([10**9, 0]))
  CheckedBlocks("x", data[:0], np.zeros(0, np.uint32)).check(np.array([0]), np.array([5]))
  wrong = CheckedBlocks("x", data, np.array([1], np.uint32))
  with pytest.raises(DamagedFile, match="x has changed between bytes 0 and 40"):
    wrong.check(np.array([3]), np.array([4]))


def test_a_file_of_another_size_is_damaged(tmp_path):
  (tmp_path / "x.bin").write_bytes(b"12345678")
  assert map_array(tmp_path / "x.bin", np.dtype(np.int32), 2).shape == (2,)
  with pytest.raises(DamagedFile, match="x.bin has 8 bytes instead of 12"):
    map_array(tmp_path / "x.bin", np.dtype(np.int32), 3)
  with pytest.raises(DamagedFile, match="y.bin is missing"):
    map_array(tmp_path / "y.bin", np.dtype(np.int32), 3)
