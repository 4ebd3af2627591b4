"""One process holds a folder; whoever asks is told, and a dead one lets go."""

import os
import signal
import subprocess
import sys

import pytest

from layers.errors import UserError
from runners.processes.folder_lock import hold, is_held

HOLD = """
import sys
from runners.processes.folder_lock import hold
lock = hold(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_held_until_its_lock_is_closed(tmp_path):
  folder = tmp_path / "new" / "folder"
  assert not is_held(folder)
  lock = hold(folder)
  assert is_held(folder)
  with pytest.raises(UserError, match="another process is running in .*--workdir"):
    hold(folder)
  lock.close()
  assert not is_held(folder)
  hold(folder).close()


def test_a_process_killed_holds_nothing(tmp_path):
  command = [sys.executable, "-c", HOLD, str(tmp_path)]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b"held\n"
    assert is_held(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
  assert not is_held(tmp_path)


def test_what_is_no_folder_names_the_reason_and_the_cure(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write in workdir .*file.*choose another with"):
    hold(tmp_path / "file")


def test_a_lock_that_is_a_link_is_refused_and_its_target_keeps_its_content(tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  (tmp_path / "precious").write_text("precious")
  (folder / ".lock").symlink_to(tmp_path / "precious")
  with pytest.raises(UserError, match=r"\.lock is a link"):
    hold(folder)
  assert not is_held(folder)
  assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path, make):
  make(tmp_path / ".lock")
  with pytest.raises(UserError, match="choose another"):
    hold(tmp_path)
  assert not is_held(tmp_path)
