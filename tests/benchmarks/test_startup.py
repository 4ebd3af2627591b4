"""The benchmark of startup runs from end to end and fills its tables."""

import math

import pytest

from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_every_table_has_its_rows_with_positive_figures():
  commands, first_step, stages = tables(run_benchmark("startup.py", "--quick"))
  assert set(commands) == {
    "python -c pass",
    "import jax",
    "runner list",
    "runner show",
    "override error",
  }
  assert set(first_step) == {"cold", "warm"}
  assert list(stages)[0] == "imports" and list(stages)[-1] == "first step"
  assert all(set(row) == {"cold", "warm"} for row in stages.values())
  figures = [row["ms"] for row in (*commands.values(), *first_step.values())]
  figures += [value for row in stages.values() for value in row.values()]
  assert all(isinstance(figure, float) for figure in figures)
  assert all(math.isfinite(figure) and figure > 0 for figure in figures)
