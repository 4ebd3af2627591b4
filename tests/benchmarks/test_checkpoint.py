"""The benchmark of checkpoints runs from end to end and fills its tables."""

import math

import pytest

from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_every_table_has_its_rows_with_positive_figures():
  memory, formats, checksums = tables(run_benchmark("checkpoint.py", "--quick"))
  assert list(memory) == ["1", "5", "7", "9", "11", "13"]
  assert all(math.isfinite(row["growth %"]) for row in list(memory.values())[2:])
  assert set(formats) == {"Strata", "plain, a file an array", "plain, one database"}
  operations = {"blocking s", "save s", "restore s", "verify s"}
  assert {name for name in formats["Strata"] if name.endswith(" s")} == operations
  figures = [row["resident MB"] for row in memory.values()]
  for row in (*formats.values(), *checksums.values()):
    figures += [value for value in row.values() if value != "-"]
  assert all(isinstance(figure, float) for figure in figures)
  assert all(math.isfinite(figure) and figure > 0 for figure in figures)
