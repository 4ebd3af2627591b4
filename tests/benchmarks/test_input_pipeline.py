"""The benchmark of the input pipeline runs from end to end and fills its tables."""

import math

import pytest

from tests.shown_tables import run_benchmark, tables

BATCHES = {"12 x 64", "64 x 64", "8 x 1024", "64 x 1024", "512 x 1024"}


@pytest.mark.slow
def test_every_table_has_its_rows_with_positive_figures():
  builds, opening, first_batch, loader = tables(run_benchmark("input_pipeline.py", "--quick"))
  assert set(builds) == {"unbroken", "after kill 1"}
  assert builds["after kill 1"]["same bytes"] == "yes"
  assert set(opening) == {"list and hash the sources", "open and check the store"}
  assert set(first_batch) == {"step 0", "step 1,000,000"}
  assert set(loader) == BATCHES
  assert set(loader["12 x 64"]) == {"ms", "M tokens/s", "M tokens/s prefetched"}
  figures = [row["build s"] for row in builds.values()]
  figures += [builds["unbroken"][rate] for rate in ("tokens/s", "files/s")]
  for table in (opening, first_batch, loader):
    figures += [value for row in table.values() for value in row.values()]
  assert all(isinstance(figure, float) for figure in figures)
  assert all(math.isfinite(figure) and figure > 0 for figure in figures)
