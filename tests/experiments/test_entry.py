"""Ctrl-C means exit code 130 and no traceback, also while the program is still starting."""

import signal
import subprocess
import sys
import time

import pytest

# Interrupts itself when a module is first looked for, then runs like `python -m experiments`.
_INTERRUPTED_AT = """
import os, runpy, signal, sys

_, module, handler, *arguments = sys.argv

class Interrupt:
  def find_spec(self, name, path=None, target=None):
    if name == module:
      signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, getattr(signal, handler))
sys.argv = ["runner", *arguments]
runpy.run_module("experiments", run_name="__main__")
"""


def start(module: str, handler: str, *arguments: str):
  return subprocess.run(
    [sys.executable, "-c", _INTERRUPTED_AT, module, handler, *arguments],
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize(
  "module", ["experiments.command_line", "fiddle", "experiments.gpt2", "runners.preview"]
)
def test_an_interrupt_while_importing_is_exit_code_130_without_a_traceback(module):
  result = start(module, "default_int_handler", "data", "--exp=gpt2.Nano")
  assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_an_interrupt_that_is_ignored_stays_ignored():
  assert start("fiddle", "SIG_IGN", "list").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
  "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_building_of_a_token_store_whatever_library_is_at_work(
  number, code, tmp_path
):
  command = [sys.executable, "-m", "experiments", "data", "--exp=gpt2.Nano", "--cache"]
  process = subprocess.Popen(
    [*command, f"--cache_dir={tmp_path}"], stderr=subprocess.PIPE, text=True
  )
  assert process.stderr.readline().startswith("building token store")
  time.sleep(0.5)
  process.send_signal(number)
  assert (process.stderr.read(), process.wait()) == ("", code)
