"""A process leaves when its parent's end of the pipe is closed, and not before."""

import subprocess
import sys

CHILD = """
import os, time
from runners.processes import parent_process
parent_process.when_gone(lambda: os._exit(7))
print("up", flush=True)
time.sleep(60)
"""


def test_it_acts_once_nobody_holds_the_other_end():
  command = [sys.executable, "-c", CHILD]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    assert child.stdin and child.stdout
    assert child.stdout.readline() == b"up\n"
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=30) == 7
