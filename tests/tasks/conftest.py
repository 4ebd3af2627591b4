"""What the tests of tasks on files share."""

import pytest

from input_pipelines import example_files


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
  return str(tmp_path / "cache")


@pytest.fixture
def small_parts(monkeypatch):
  """Parts of 100 bytes, read 70 at a time."""
  monkeypatch.setattr(example_files, "PART_BYTES", 100)
  monkeypatch.setattr(example_files, "_CHUNK_BYTES", 70)
  example_files._scan.cache_clear()
  yield
  example_files._scan.cache_clear()
