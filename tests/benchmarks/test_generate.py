"""The benchmark of generation runs from end to end, and both ways give the same tokens."""

import pytest

from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_the_cache_is_compared_with_none():
  (table,) = tables(run_benchmark("generate.py", "--quick"))
  row = table["1"]
  assert row["same"] == "yes"
  ratio = float(row["cached tok/s"]) / float(row["uncached tok/s"])
  assert ratio > 0 and row["ratio"] == pytest.approx(ratio, rel=0.02)
