"""The first signal asks, the second insists; the exit code says which it was."""

import os
import signal

import pytest

from runners.signals import Interruption


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_remembered_and_gives_the_exit_code_of_the_shell(number, code):
  with Interruption() as interruption:
    assert (interruption.signal, interruption.exit_code) == (None, 0)
    os.kill(os.getpid(), number)
    assert (interruption.signal, interruption.exit_code) == (number, code)


def test_the_second_signal_interrupts_at_once():
  with pytest.raises(KeyboardInterrupt), Interruption():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_are_back_afterwards():
  before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  with Interruption():
    assert signal.getsignal(signal.SIGTERM) not in before
  after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  assert after == before
