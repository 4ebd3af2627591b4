"""Work that takes long shows a bar on a terminal, and a line now and then anywhere else."""

import io
import sys
import time

import pytest
from rich.progress import Progress as Display
from rich.progress import TextColumn

from input_pipelines import progress
from input_pipelines.progress import Progress, duration


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def impatient(monkeypatch):
  """What takes seconds takes hundredths."""
  for name in ("_BAR_AFTER_S", "_BAR_EVERY_S", "_LINE_AFTER_S", "_LINE_EVERY_S"):
    monkeypatch.setattr(progress, name, getattr(progress, name) / 200)


def wait_for(text, file):
  """Until `text` has been written; a test that waits in vain fails."""
  end = time.monotonic() + 20
  while text not in file.getvalue():
    assert time.monotonic() < end, file.getvalue()
    time.sleep(0.005)


def test_redirected_a_line_now_and_then_says_how_far_it_is(impatient, monkeypatch):
  file = io.StringIO()
  monkeypatch.setattr(sys, "stderr", file)
  with Progress("evaluating x", 2000, "batches") as watched:
    wait_for("evaluating x: 0 of 2,000 batches, 0:00\n", file)
    watched.advance(1999)
    wait_for("evaluating x: 1,999 of 2,000 batches, 0:00, about 0:00 left\n", file)
  lines = file.getvalue().splitlines()
  assert all(line.startswith("evaluating x: ") for line in lines)
  time.sleep(0.3)
  assert file.getvalue().splitlines() == lines  # it ended with the block


def test_without_a_total_it_says_what_is_known(impatient, monkeypatch):
  file = io.StringIO()
  monkeypatch.setattr(sys, "stderr", file)
  with Progress("compiling"):
    wait_for("compiling: 0:00\n", file)
  with Progress("building", unit="tokens") as watched:
    watched.advance(3)
    wait_for("building: 3 tokens, 0:00\n", file)


def test_a_terminal_has_a_bar_that_is_gone_at_the_end(impatient, monkeypatch):
  monkeypatch.setenv("COLUMNS", "100")
  monkeypatch.setenv("TERM", "xterm")
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  with Progress("verifying", 10, "arrays") as watched:
    watched.advance(4)
    wait_for("verifying: 4 of 10 arrays", terminal)
    wait_for("━", terminal)
    print("a line above it", file=sys.stderr)
    wait_for("a line above it\n", terminal)
  _, _, rest = terminal.getvalue().rpartition("\x1b[2K")  # which clears the line of the bar
  assert rest.strip("\r") == "\x1b[?25h"  # the cursor is shown again
  assert sys.stderr is terminal


def test_a_bar_joins_the_one_that_is_on_the_terminal(impatient, monkeypatch):
  monkeypatch.setenv("TERM", "xterm")
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  other = Display(TextColumn("{task.fields[figures]}"), disable=True)
  with progress.shared(other), Progress("evaluating", 3) as watched:
    end = time.monotonic() + 20
    while not other.tasks:
      assert time.monotonic() < end
      time.sleep(0.005)
    (task,) = other.tasks
    assert task.total == 3 and task.fields["figures"].startswith("evaluating: 0 of 3")
    watched.advance()
  assert other.tasks == [] and terminal.getvalue() == ""


@pytest.mark.parametrize("file", [io.StringIO, Terminal])
def test_what_is_short_says_nothing(monkeypatch, file):
  file = file()
  monkeypatch.setattr(sys, "stderr", file)
  with Progress("evaluating", 1) as watched:
    watched.advance()
  assert file.getvalue() == ""


def test_neither_a_closed_file_nor_an_error_in_the_block_is_hidden_or_made(
  impatient, monkeypatch
):
  file = io.StringIO()
  file.close()
  monkeypatch.setattr(sys, "stderr", file)
  with pytest.raises(KeyError), Progress("working"):
    time.sleep(0.1)
    raise KeyError


def test_each_call_of_a_counted_function_is_one_more(impatient, monkeypatch):
  file = io.StringIO()
  monkeypatch.setattr(sys, "stderr", file)
  with Progress("reading", 3, "arrays") as watched:
    double = watched.counting(lambda x: 2 * x)
    assert [double(1), double(2)] == [2, 4]
    wait_for("reading: 2 of 3 arrays", file)


@pytest.mark.parametrize(
  "seconds, shown", [(0, "0:00"), (59.6, "1:00"), (3723.4, "1:02:03"), (-5, "0:00")]
)
def test_durations_are_short(seconds, shown):
  assert duration(seconds) == shown
