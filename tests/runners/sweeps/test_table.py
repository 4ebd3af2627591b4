"""The table of a sweep says what the records of its runs say, the best first."""

import dataclasses
import json

import pytest

from layers.errors import UserError
from runners.sweeps.table import (
  Row,
  is_finished,
  measured,
  print_table,
  ranked,
  read_table,
  short_names,
  write_table,
)

LOSS = "eval/validation/loss"


@pytest.fixture
def point(tmp_path):
  """Writes what a run leaves: rows of metrics, and the end of each start (None: killed)."""

  def write(name: str, ends=(), rows=()):
    (tmp_path / name).mkdir()
    starts = [{"argv": []} | ({"ended": end} if end else {}) for end in ends]
    (tmp_path / name / "run.json").write_text(json.dumps({"starts": starts}))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name / "metrics.jsonl").write_text(text)
    return Row(name, {"seed": "1"})

  return write


def end(finished: bool, seconds: float = 1.0) -> dict:
  return {"step": 2, "finished": finished, "seconds": seconds}


def test_a_row_holds_the_last_value_of_each_metric_and_the_time_of_all_starts(point, tmp_path):
  rows = [{"step": 1, "train/loss": 5.0, LOSS: 4.0}, {"step": 2, "train/loss": 3.0}]
  row = measured(point("a", [end(False, 1.5), None, end(True, 2.0)], rows), tmp_path)
  assert (row.status, row.steps, row.seconds) == ("finished", 2, 3.5)
  assert row.scalars == {"train/loss": 3.0, LOSS: 4.0}


@pytest.mark.parametrize(
  "ends, finished",
  [
    ([], False),
    ([None], False),
    ([end(False)], False),
    ([end(True)], True),
    ([end(True), None], False),  # given more to do, and killed
  ],
)
def test_a_point_is_finished_when_its_newest_start_says_so(ends, finished, point, tmp_path):
  row = measured(point("a", ends), tmp_path)
  assert is_finished(tmp_path / "a") == finished
  assert row.status == ("finished" if finished else "waiting")


def test_a_point_whose_folder_holds_another_config_has_no_result(point, tmp_path):
  row = point("a", [end(True)], [{"step": 2, LOSS: 1.0}])
  changed = dataclasses.replace(row, status="changed")
  assert measured(changed, tmp_path) == changed


def test_a_point_without_a_folder_is_waiting(tmp_path):
  assert measured(Row("a", {}), tmp_path) == Row("a", {})


def test_finished_points_come_first_the_best_of_them_on_top():
  nan = float("nan")
  rows = [
    Row("failed", {}, "failed", scalars={LOSS: 0.0}),
    Row("nan", {}, "finished", scalars={LOSS: nan}),
    Row("two", {}, "finished", scalars={LOSS: 2.0}),
    Row("none", {}, "finished"),
    Row("one", {}, "finished", scalars={LOSS: 1.0}),
  ]
  order = lambda mode: [row.point for row in ranked(rows, LOSS, mode)]
  assert order("min") == ["one", "two", "nan", "none", "failed"]
  assert order("max") == ["two", "one", "nan", "none", "failed"]


def test_points_and_values_come_back_from_the_file(tmp_path):
  rows = [
    Row("a", {"model.width": "(1, 2)", "name": 'x,"y"'}, "finished", 3, 1.25, {LOSS: 0.1}),
    Row("b", {"model.width": "(3,)", "name": "z"}, "failed"),
  ]
  write_table(tmp_path, rows, LOSS)
  header, first, _ = (tmp_path / "sweep.csv").read_text().splitlines()
  assert header == f"point,status,model.width,name,steps,seconds,train/loss,{LOSS}"
  assert first.endswith(",3,1.2,,0.1")
  assert [(row.point, row.status, row.values) for row in read_table(tmp_path)] == [
    (row.point, row.status, row.values) for row in rows
  ]


def test_every_metric_of_every_evaluation_is_in_the_file(tmp_path):
  scalars = {LOSS: 1.0, "eval/other/loss": 2.0, "train/grad_norm": 3.0, "perf/step_ms": 4.0}
  write_table(tmp_path, [Row("a", {}, scalars=scalars)], "perf/step_ms")
  header = (tmp_path / "sweep.csv").read_text().splitlines()[0]
  assert header.endswith(f"train/loss,perf/step_ms,{LOSS},eval/other/loss")


def test_a_file_that_is_no_table_is_refused_and_none_is_an_empty_one(tmp_path):
  assert read_table(tmp_path) == []
  (tmp_path / "sweep.csv").write_text("a,b\n1,2\n")
  with pytest.raises(UserError, match="is no table of a sweep; move it away"):
    read_table(tmp_path)


def test_a_printed_table_is_plain_and_whole_where_nobody_watches(capsys):
  values = {"train_data.path": "/a/long/path" * 20, "callbacks": "[@Stop(patience=1)]"}
  print_table([Row("a1b2", values, "finished", 7, 2.0, {LOSS: 1.5})], LOSS)
  header, row = capsys.readouterr().out.splitlines()
  assert header.split() == "point path callbacks status steps train/loss".split() + [
    LOSS,
    "seconds",
  ]
  assert row.split() == ["a1b2", *values.values(), "finished", "7", "-", "1.5000", "2.0"]
  assert "\x1b" not in row


def test_paths_are_shortened_as_far_as_they_stay_apart():
  assert short_names(["model.width", "optimizer.rate.peak"]) == ["width", "peak"]
  assert short_names(["a.x.rate", "b.x.rate", "seed"]) == ["a.x.rate", "b.x.rate", "seed"]
  assert short_names([]) == []
