"""The benchmark of attention's memory: dense grows with the square of the length."""

import math
import re

import pytest

from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_blockwise_takes_less_than_dense_and_what_is_too_large_is_left_out():
  arguments = ("--lengths", "2048", "4096", "--limit_gib=0.15")
  printed = run_benchmark("attention_memory.py", *arguments)
  (table,) = tables(printed)
  assert list(table) == ["2,048", "4,096"]
  short, long = table.values()
  assert 0 < short["blockwise MB"] < 0.5 * short["dense MB"]
  # What is planned is in memory; the rest is what threads and the allocator take.
  assert short["dense planned"] < short["dense MB"] < 2 * short["dense planned"]
  assert long["dense MB"] == "left out"
  assert long["dense planned"] > max(160, 3 * short["dense planned"])
  assert long["blockwise planned"] < 2 * short["blockwise planned"]
  assert math.isfinite(long["blockwise MB"])
  (fit,) = re.findall(r"^(.*): MB ~ length\^(-?\d+\.\d\d)$", printed, re.MULTILINE)
  assert fit[0] == "blockwise" and float(fit[1]) < 1.5  # dense has one length alone
