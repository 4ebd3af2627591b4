"""Jobs run a few at a time, each alone in its failure, and none outlives what started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runners.processes.folder_lock import hold
from runners.processes.signals import Interruption
from runners.sweeps.job_queue import LOG_NAME, Job, JobQueue, core_shares


@pytest.fixture
def events():
  return []


@pytest.fixture
def queue(tmp_path, events):
  """A queue of Python programs, told by name; what happens goes to `events`."""

  def make(parallel=1, **programs: str) -> JobQueue:
    jobs = []
    for name, code in programs.items():
      (tmp_path / name).mkdir(exist_ok=True)
      jobs.append(
        Job(name, [sys.executable, "-c", code, str(tmp_path / name)], tmp_path / name)
      )
    tell = lambda job, event, *code: events.append((job.name, event, *code))
    return JobQueue(jobs, parallel=parallel, env=os.environ, tell=tell)

  return make


# Announces itself, then waits for a signal, of which it says the number.
WAITS = """
import signal, sys, time
from pathlib import Path
def say(number, frame):
  sys.exit(100 + number)
signal.signal(signal.SIGINT, say)
signal.signal(signal.SIGTERM, say)
Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""


def when(done, then) -> threading.Thread:
  """Calls `then` in a thread as soon as `done()`."""

  def wait():
    while not done():
      time.sleep(0.01)
    then()

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  return thread


def test_jobs_run_in_order_and_one_that_fails_or_dies_stops_no_other(queue, events, tmp_path):
  die = "import os, sys; print('last words', flush=True); os.kill(os.getpid(), 9)"
  queue(a="print('fine')", b="import sys; sys.exit(3)", c=die, d="pass").run(Interruption())
  assert events == [
    *(("a", "started"), ("a", "ended", 0), ("b", "started"), ("b", "ended", 3)),
    *(("c", "started"), ("c", "ended", -signal.SIGKILL), ("d", "started"), ("d", "ended", 0)),
  ]
  assert (tmp_path / "a" / LOG_NAME).read_text() == "fine\n"
  assert (tmp_path / "c" / LOG_NAME).read_text() == "last words\n"


def test_the_output_of_each_start_is_added_to_the_log(queue, tmp_path):
  for _ in range(2):
    queue(a="import sys; print('out'); print('err', file=sys.stderr)").run(Interruption())
  log = (tmp_path / "a" / LOG_NAME).read_text()
  assert log.count("out\n") == 2 and log.count("err\n") == 2


def test_as_many_run_at_once_as_is_asked_and_no_more(queue, events):
  both = "import sys, time; from pathlib import Path; p = Path(sys.argv[1])\n"
  both += "while len(list(p.parent.glob('*/here'))) < 2: p.joinpath('here').touch()"
  queue(2, a=both, b=both, c="pass").run(Interruption())
  assert [event[:2] for event in events[:2]] == [("a", "started"), ("b", "started")]
  assert events.index(("c", "started")) > 2  # after one of them ended
  assert sorted(event[0] for event in events if event[1:] == ("ended", 0)) == ["a", "b", "c"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_once_awaited_and_starts_nothing_more(
  number, queue, events, tmp_path
):
  interruption = Interruption()
  ready = tmp_path / "a" / "ready"
  thread = when(ready.exists, lambda: os.kill(os.getpid(), number))
  with interruption:
    queue(a=WAITS, b="pass").run(interruption)
  thread.join()
  assert events == [("a", "started"), ("a", "ended", 100 + number)]
  assert interruption.exit_code == 128 + number


def test_a_second_signal_kills_what_will_not_stop(queue, events, tmp_path):
  deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
  deaf += "import os, sys, time; from pathlib import Path\n"
  deaf += "Path(sys.argv[1], 'pid').write_text(str(os.getpid())); time.sleep(60)"
  file = tmp_path / "a" / "pid"

  def twice():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = when(lambda: file.exists() and file.read_text(), twice)
  interruption = Interruption(insist=None)
  with pytest.raises(KeyboardInterrupt), interruption:
    queue(a=deaf).run(interruption)
  thread.join()
  with pytest.raises(ProcessLookupError):
    os.kill(int(file.read_text()), 0)


def test_a_folder_that_another_process_holds_is_waited_for_while_others_run(
  queue, events, tmp_path
):
  lock = hold(tmp_path / "a")
  when(lambda: ("b", "ended", 0) in events, lock.close)
  queue(a="pass", b="pass").run(Interruption())
  assert events[:3] == [("a", "held"), ("b", "started"), ("b", "ended", 0)]
  assert events[3:] == [("a", "started"), ("a", "ended", 0)]


def test_the_pipe_on_standard_input_closes_with_the_process_that_started_the_job(tmp_path):
  follow = "import sys; from pathlib import Path; Path(sys.argv[1], 'ready').touch()\n"
  follow += "sys.stdin.read(); Path(sys.argv[1], 'left').touch()"
  starter = f"""
import os, sys
from pathlib import Path
from runners.sweeps.job_queue import Job, JobQueue
from runners.processes.signals import Interruption
folder = Path({str(tmp_path)!r})
job = Job("a", [sys.executable, "-c", {follow!r}, str(folder)], folder)
JobQueue([job], parallel=1, env=os.environ, tell=print).run(Interruption())
"""
  process = subprocess.Popen([sys.executable, "-c", starter])
  try:
    _await(tmp_path / "ready")
  finally:
    process.kill()
    process.wait()
  _await(tmp_path / "left")
  assert (tmp_path / "left").exists()


def _await(file: Path) -> None:
  deadline = time.monotonic() + 30
  while not file.exists() and time.monotonic() < deadline:
    time.sleep(0.01)


def test_the_cores_are_parted_among_jobs_where_there_are_enough(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 8}, raising=False)
  monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
  assert core_shares(2) == [{0, 1}, {2, 3, 8}]
  assert core_shares(5) == [{0}, {1}, {2}, {3}, {8}]
  assert core_shares(1) is None and core_shares(6) is None
  monkeypatch.delattr(os, "sched_setaffinity")
  assert core_shares(2) is None
