"""Every writer gets every step once, in a resumed run too, and no writer can hurt another."""

import errno
import io
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from layers.errors import UserError
from runners.metrics import console, json_lines
from runners.metrics.console import Console
from runners.metrics.json_lines import JsonLines
from runners.metrics.tensorboard import TensorBoard
from runners.metrics.writers import MultiWriter, open_writers

TRAIN = {
  "train/loss": 2.30258,
  "train/grad_norm": 0.5,
  "train/learning_rate": 3e-4,
  "perf/tokens_per_s": 12345.6,
  "perf/mfu": 0.412,
  "perf/data_wait": 0.013,
  "perf/step_ms": 81.2,
}
EVAL = {"eval/validation/loss": 1.8808, "eval/validation/bits_per_byte": 2.7135}


class Recorder:
  """Remembers what it is told; fails while `error` is set."""

  def __init__(self, error=None):
    self.calls = []
    self.error = error

  def _record(self, *call):
    if self.error:
      raise self.error
    self.calls.append(call)

  def resume(self, step):
    self._record("resume", step)

  def write(self, step, scalars):
    self._record("write", step, dict(scalars))

  def flush(self):
    self._record("flush")

  def close(self):
    self._record("close")


class Terminal(io.StringIO):
  def isatty(self):
    return True


def write_steps(workdir, first, last, *, restored):
  writer = JsonLines().open(str(workdir), num_steps=None)
  writer.resume(restored)
  for step in range(first, last + 1):
    writer.write(step, {"train/loss": 1 / step})
  writer.close()
  return workdir / "metrics.jsonl"


def full_disk(file, data):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def steps(path):
  return [json.loads(line)["step"] for line in path.read_text().splitlines()]


# Several at once


def test_a_failing_writer_keeps_no_other_from_its_data_and_is_said_aloud_once(notes):
  good, bad = Recorder(), Recorder(OSError("disk full"))
  writer = MultiWriter([bad, good])
  writer.write(1, {"train/loss": 1.0})
  writer.write(2, {"train/loss": 0.5})
  bad.error = None
  writer.write(3, {"train/loss": 0.25})
  writer.close()
  assert [call[1] for call in good.calls[:3]] == [1, 2, 3]
  assert good.calls[-1] == ("close",)
  assert notes == [
    "Recorder lost metrics of step 1: OSError: disk full",
    "Recorder writes again, from metrics of step 3 on",
  ]


def test_a_workdir_that_cannot_be_resumed_stops_the_run():
  with pytest.raises(UserError, match="not yours"):
    MultiWriter([Recorder(UserError("not yours"))]).resume(0)


def test_only_the_first_process_writes(tmp_path):
  configs = [JsonLines()]
  for process_index in (0, 1):
    workdir = tmp_path / str(process_index)
    writer = open_writers(configs, str(workdir), 10, process_index=process_index)
    writer.resume(0)
    writer.write(1, TRAIN)
    writer.close()
    assert (workdir / "metrics.jsonl").exists() == (process_index == 0)


# metrics.jsonl


def test_a_row_is_one_line_that_reads_back_bit_for_bit(tmp_path):
  writer = JsonLines().open(str(tmp_path), 10)
  loss = np.float32(0.1) * np.float32(3)
  writer.resume(0)
  writer.write(7, {"train/loss": loss, "eval/x/tokens": 12, **EVAL})
  line = (tmp_path / "metrics.jsonl").read_text()  # before flush or close
  writer.close()
  assert line.startswith('{"step": 7, "train/loss": ') and line.count("\n") == 1
  (row,) = json_lines.read(str(tmp_path / "metrics.jsonl"))
  assert row.pop("perf/time") == pytest.approx(time.time(), abs=60)
  assert row == {"step": 7, "train/loss": float(loss), "eval/x/tokens": 12, **EVAL}


def test_what_is_not_finite_stays_strict_json(tmp_path):
  writer = JsonLines().open(str(tmp_path), 10)
  writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
  writer.close()

  def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")

  path = tmp_path / "metrics.jsonl"
  row = json.loads(path.read_text(), parse_constant=refuse)
  assert row.pop("perf/time")
  assert row == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
  (row,) = json_lines.read(str(path))
  assert math.isnan(row["a"]) and (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_resumed_run_writes_no_step_twice(tmp_path):
  write_steps(tmp_path, 1, 10, restored=0)
  path = write_steps(tmp_path, 7, 12, restored=6)
  assert steps(path) == list(range(1, 13))
  assert os.listdir(tmp_path) == ["metrics.jsonl"]  # no temporary file stays


def test_a_run_that_starts_afresh_keeps_no_row_not_even_of_step_0(tmp_path):
  writer = JsonLines().open(str(tmp_path), None)
  writer.write(0, EVAL)
  writer.close()
  assert steps(write_steps(tmp_path, 1, 3, restored=0)) == [1, 2, 3]


def test_resuming_at_the_last_row_leaves_the_file_as_it_is(tmp_path):
  path = write_steps(tmp_path, 1, 5, restored=0)
  before = path.stat().st_ino
  write_steps(tmp_path, 6, 7, restored=5)
  assert path.stat().st_ino == before
  assert steps(path) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("torn", ["{", '{"step": 6', '{"step": 6, "train/lo', "{"])
def test_a_torn_last_line_is_cut_away(tmp_path, torn):
  path = write_steps(tmp_path, 1, 5, restored=0)
  with path.open("a") as file:
    file.write(torn)
  assert [row["step"] for row in json_lines.read(str(path))] == [1, 2, 3, 4, 5]
  assert steps(write_steps(tmp_path, 6, 6, restored=5)) == [1, 2, 3, 4, 5, 6]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
  path = write_steps(tmp_path, 1, 5, restored=0)
  path.write_text(path.read_text().rstrip("\n"))
  assert steps(write_steps(tmp_path, 6, 6, restored=5)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
  "content", ["hello\n", "hello", "[1]\n", '{"step": "1"}\n', '{"loss": 1}\n', "\x00\xff\n"]
)
def test_a_file_that_is_no_metrics_file_is_refused_and_left_alone(tmp_path, content):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n' + content)
  with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is no row .* --workdir"):
    JsonLines().open(str(tmp_path), None).resume(0)
  assert path.read_text() == '{"step": 1}\n' + content


def test_rows_that_found_no_room_are_written_in_order_once_there_is_some(tmp_path, monkeypatch):
  path = write_steps(tmp_path, 1, 2, restored=0)
  writer = JsonLines().open(str(tmp_path), None)
  real_write = os.write
  with monkeypatch.context() as patch:
    patch.setattr(os, "write", lambda file, data: real_write(file, data[:5]))
    writer.write(3, TRAIN)
    patch.setattr(os, "write", full_disk)
    writer.write(4, TRAIN)
    with pytest.raises(UserError, match="metrics.jsonl: No space left on device; make room"):
      writer.settle()
  assert steps(path) == [1, 2]  # and no half line
  writer.write(5, TRAIN)
  writer.settle()
  writer.close()
  assert steps(path) == [1, 2, 3, 4, 5]


def test_a_disk_that_stays_full_is_said_once_and_what_is_kept(tmp_path, monkeypatch, notes):
  now, lines = [0.0], JsonLines().open(str(tmp_path), None)
  monkeypatch.setattr(lines._file, "_clock", lambda: now[0])
  writer = MultiWriter([lines])
  with monkeypatch.context() as patch:
    patch.setattr(os, "write", full_disk)
    for step in range(1, 9):
      writer.write(step, TRAIN)
      now[0] += 20
    with pytest.raises(UserError):
      writer.settle()
  writer.write(9, TRAIN)
  writer.settle()
  writer.close()
  assert len(notes) == 2 and "kept in memory" in notes[0] and "writes again" in notes[1]
  assert steps(tmp_path / "metrics.jsonl") == list(range(1, 10))


def test_writers_left_by_an_error_say_nothing_more(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(os, "write", full_disk)
  with (
    pytest.raises(UserError, match="the cause"),
    MultiWriter(
      [JsonLines().open(str(tmp_path), None), TensorBoard().open(str(tmp_path), None)]
    ) as writer,
  ):
    writer.write(1, TRAIN)
    raise UserError("the cause")
  assert capsys.readouterr().err == ""


def test_a_step_that_somebody_doubled_is_there_once_after_a_resume(tmp_path):
  path = write_steps(tmp_path, 1, 3, restored=0)
  path.write_text(path.read_text() * 2)
  assert steps(write_steps(tmp_path, 4, 4, restored=3)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
  "tail, kept",
  [
    (b"\0" * 300, 5),
    (b'{"step": 6, "train/lo' + b"\0" * 50, 5),
    (b"\0" * 20 + b'ss": 0.5}\n', 5),
    (b"\0" * 20 + b'{"step": 6}\n', 6),
    (b'{"step": 6, "tr' + b"\0" * 9 + b'0.5}\n{"step": 7}\n', 6),
  ],
)
def test_zeros_of_a_power_cut_are_left_out_and_said(tmp_path, notes, tail, kept):
  path = write_steps(tmp_path, 1, 5, restored=0)
  path.write_bytes(path.read_bytes() + tail)
  writer = JsonLines().open(str(tmp_path), None)
  writer.resume(9)
  writer.write(10, TRAIN)
  writer.close()
  assert writer.num_rows == kept and len(steps(path)) == kept + 1
  assert b"\0" not in path.read_bytes()
  assert len(notes) == (b'{"step": 6}' not in tail)


def test_a_killed_process_loses_no_row_it_reported(tmp_path):
  code = f"""
import os, signal
from runners.metrics.json_lines import JsonLines
writer = JsonLines().open({str(tmp_path)!r}, None)
for step in range(1, 101):
  writer.write(step, {{"train/loss": 1 / step}})
os.kill(os.getpid(), signal.SIGKILL)
"""
  assert subprocess.run([sys.executable, "-c", code]).returncode == -9
  assert steps(tmp_path / "metrics.jsonl") == list(range(1, 101))


# Console


def test_a_log_is_one_plain_line_where_nobody_watches(capsys):
  writer = Console().open("unused", num_steps=2000)
  writer.resume(0)
  writer.write(100, TRAIN)
  writer.write(200, EVAL)
  writer.close()
  assert capsys.readouterr().out.splitlines() == [
    "step 100/2000  loss 2.3026  grad_norm 0.5  lr 3.00e-04  12.3k tokens/s  mfu 41.2%  "
    "data wait 1.3%  81 ms/step  eta 2:34",
    "step 200  validation  loss 1.8808  bits/byte 2.7135",
  ]


def test_an_unknown_peak_prints_as_not_available_and_on_a_cpu_not_at_all(monkeypatch):
  scalars = {key: value for key, value in TRAIN.items() if key != "perf/mfu"}
  (line,) = console.lines(1, None, scalars)
  assert "mfu" not in line and line.startswith("step 1  loss") and "eta" not in line
  monkeypatch.setattr("jax.default_backend", lambda: "gpu")
  (line,) = console.lines(1, None, scalars)
  assert "tokens/s  mfu n/a  data wait" in line


def test_the_rate_of_each_label_is_printed_as_a_rate():
  scalars = {"train/learning_rate/generator": 3e-4, "train/learning_rate/critic": 0.1}
  (line,) = console.lines(3, 9, scalars)
  assert line == "step 3/9  lr/generator 3.00e-04  lr/critic 1.00e-01"


def test_what_is_not_a_number_is_printed_as_such():
  assert list(console.lines(3, 9, {"train/loss": math.nan})) == ["step 3/9  loss nan"]


def test_each_evaluation_has_its_line():
  scalars = {"eval/a/loss": 1.0, "eval/b/loss": 2.0, "eval/a/accuracy": 0.5}
  assert list(console.lines(3, 9, scalars)) == [
    "step 3  a  loss 1.0000  accuracy 0.5",
    "step 3  b  loss 2.0000",
  ]


def test_a_terminal_shows_live_progress_and_scrolls_evaluations_by(monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  monkeypatch.setenv("TERM", "xterm")
  terminal = Terminal()
  monkeypatch.setattr(sys, "stdout", terminal)
  writer = Console().open("unused", num_steps=2000)
  writer.resume(0)
  assert terminal.getvalue() == ""
  writer.write(100, {**TRAIN, **EVAL})
  writer.flush()
  writer.close()
  shown = terminal.getvalue()
  for part in (
    "100/2000",
    "loss 2.3026",
    "12.3k tokens/s",
    "mfu 41.2%",
    "data wait 1.3%",
    "eta",
  ):
    assert part in shown
  assert "step 100  validation  loss 1.8808  bits/byte 2.7135" in shown
  assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is shown again


@pytest.mark.parametrize(
  "count, shown", [(9.5, "9.5"), (999.4, "999"), (999.6, "1k"), (1.24e6, "1.24M"), (5e9, "5G")]
)
def test_counts_are_short(count, shown):
  assert console._short(count) == shown
