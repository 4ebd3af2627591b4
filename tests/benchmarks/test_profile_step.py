"""The profile of a step runs, and every operation is counted once."""

import pytest

from tests.shown_tables import run_benchmark, tables

KINDS = ["products", "copies", "conversions", "elementwise, sums"]


@pytest.mark.slow
def test_parts_and_kinds_of_operations_add_up_to_the_step():
  (table,) = tables(run_benchmark("profile_step.py", "--size=tiny"))
  *parts, total = table.values()
  assert len(parts) == 6
  assert table["feed-forward"]["products"] > 0 and table["attention"]["products"] > 0
  assert table["norms"]["products"] == table["optimizer"]["products"] == 0
  for row in (*parts, total):
    assert sum(row[kind] for kind in KINDS) == pytest.approx(row["all"], rel=0.02)
  assert sum(row["all"] for row in parts) == pytest.approx(total["all"], rel=0.02)
