"""The first signal asks, the second insists; the exit code says which it was."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from runners.processes import signals
from runners.processes.signals import Interrupted, Interruption

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


def run(code: str, **options) -> subprocess.CompletedProcess:
  """The code in a process of its own, as those are that signals end."""
  head = "import os, signal, sys, time\nfrom runners.processes.signals import *\n"
  return subprocess.run(
    [sys.executable, "-c", head + code], capture_output=True, text=True, timeout=60, **options
  )


@pytest.mark.parametrize("number, code", CODES)
def test_the_first_signal_is_remembered_and_gives_the_exit_code_of_the_shell(number, code):
  with Interruption() as interruption:
    assert (interruption.signal, interruption.exit_code) == (None, 0)
    os.kill(os.getpid(), number)
    assert (interruption.signal, interruption.exit_code) == (number, code)


def test_work_that_asks_is_stopped_at_the_place_where_it_asks():
  signals.check()  # nobody listens, and nothing has come
  with Interruption() as interruption:
    signals.check()
    os.kill(os.getpid(), signal.SIGTERM)
    for check in (signals.check, interruption.check):
      with pytest.raises(Interrupted) as error:
        check()
      assert error.value.exit_code == 143


@pytest.mark.parametrize("number, code", CODES)
def test_a_process_with_nothing_to_save_ends_at_the_first_signal(number, code):
  ended = run(f"with Interruption(at_once=True): os.kill(os.getpid(), {int(number)}); print(1)")
  assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


def test_a_signal_in_a_callback_where_python_drops_errors_ends_the_process():
  ended = run(
    "import weakref\n"
    "class Thing: pass\n"
    "with Interruption(at_once=True):\n"
    "  thing = Thing()\n"
    "  weakref.finalize(thing, lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    "  del thing\n"
    "  print('went on')\n"
  )
  assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_signal_is_answered_while_the_main_thread_is_in_native_code():
  start = time.monotonic()
  ended = run(
    "import ctypes, threading\n"
    "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    "wait = ctypes.CDLL(None).poll  # lets go of the interpreter's lock, heeds no handler\n"
    "with Interruption(at_once=True):\n"
    "  for _ in range(30): wait(None, 0, 1000)\n"
  )
  assert ended.returncode == 130 and time.monotonic() - start < 20


@pytest.mark.parametrize("number, code", CODES)
def test_the_second_signal_ends_the_process_at_once(number, code):
  ended = run(
    "with Interruption(tell=lambda n: print('told', n, flush=True)):\n"
    "  os.kill(os.getpid(), signal.SIGTERM)\n"
    "  time.sleep(0.2)\n"
    f"  os.kill(os.getpid(), {int(number)})\n"
    "  time.sleep(30)\n"
  )
  assert (ended.returncode, ended.stdout, ended.stderr) == (code, "told 15\n", "")


def test_who_takes_the_second_signal_upon_himself_is_told_and_goes_on():
  with Interruption(insist=None) as interruption:
    os.kill(os.getpid(), signal.SIGTERM)
    assert not interruption.insisted
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not interruption.insisted and time.monotonic() < deadline:
      time.sleep(0.01)
    assert interruption.insisted


def test_the_handlers_of_before_are_back_afterwards():
  before = [signal.getsignal(number) for number in signals.SIGNALS]
  with Interruption():
    assert signal.getsignal(signal.SIGTERM) not in before
    with Interruption() as inner:
      os.kill(os.getpid(), signal.SIGTERM)
      assert inner.signal == signal.SIGTERM
  assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_a_signal_that_was_ignored_stays_ignored():
  ended = run(
    "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    "with Interruption(at_once=True): os.kill(os.getpid(), signal.SIGHUP); print('there')\n"
  )
  assert (ended.returncode, ended.stdout) == (0, "there\n")


def test_after_its_terminal_has_gone_a_process_ends_with_the_code_of_the_signal():
  master, slave = pty.openpty()
  code = (
    "import fcntl, os, sys, termios, time\n"
    "from runners.processes.signals import Interruption\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "with Interruption() as interruption:\n"
    "  print('ready', flush=True)\n"
    "  while not interruption.signal: time.sleep(0.01)\n"
    "  time.sleep(0.2)\n"
    "  print('saved')\n"
    "sys.exit(interruption.exit_code)\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    stdin=slave,
    stdout=slave,
    stderr=slave,
    start_new_session=True,
  )
  os.close(slave)
  assert os.read(master, 5) == b"ready"
  os.close(master)  # hangs up
  assert process.wait(timeout=30) == 129
