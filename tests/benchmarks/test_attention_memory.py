"""The benchmark of attention's memory: dense grows with the square of the length."""

import math

import pytest

from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_blockwise_takes_less_than_dense_and_what_is_too_large_is_left_out():
  printed = run_benchmark(
    "attention_memory.py", "--lengths", "512", "2048", "4096", "--limit_gib=0.15"
  )
  (table,) = tables(printed)
  assert list(table) == ["512", "2,048", "4,096"]
  short, middle, long = table.values()
  assert 0 < middle["blockwise MB"] < 0.5 * middle["dense MB"]
  assert middle["dense MB"] > 3 * short["dense MB"]
  # What is planned is in memory; the rest is what threads and the allocator take.
  assert middle["dense planned"] < middle["dense MB"] < 2 * middle["dense planned"]
  assert long["dense MB"] == "left out" and long["dense planned"] > 160
  assert math.isfinite(long["blockwise MB"])
  assert "\nblockwise: MB ~ length^" in printed and "\ndense: MB ~ length^" in printed
