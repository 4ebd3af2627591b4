"""Timings alternate, and a table can be read as text, as Markdown, and by a test."""

import time

from benchmarks.measuring import interleaved, print_head, print_table
from tests.shown_tables import tables


def test_cases_take_turns_and_each_has_its_median():
  calls = []

  def case(name, *pauses):
    pauses = iter(pauses)

    def run():
      calls.append(name)
      time.sleep(next(pauses))

    return run

  medians = interleaved({"a": case("a", 0.0, 0.5, 0.0), "b": case("b", 0.1, 0.1, 0.1)}, 3)
  assert calls == ["a", "b"] * 3
  assert medians["a"] < 0.1 <= medians["b"]


def test_columns_are_aligned_and_numbers_short(capsys):
  print_table(("case", "ms"), [("dense", 0.012345), ("a longer name", 123456.7), ("count", 3)])
  printed = capsys.readouterr().out
  assert printed.splitlines() == [
    "| case          |      ms |",
    "| ------------- | ------: |",
    "| dense         |  0.0123 |",
    "| a longer name | 123,457 |",
    "| count         |       3 |",
    "",
  ]
  (table,) = tables(printed)
  assert table == {
    "dense": {"ms": 0.0123},
    "a longer name": {"ms": 123457.0},
    "count": {"ms": 3.0},
  }


def test_the_head_names_the_command_the_machine_and_versions(capsys):
  print_head("numpy")
  printed = capsys.readouterr().out
  assert printed.startswith("command   python ")
  assert "core(s) to run on" in printed and "numpy " in printed and "Python 3" in printed
