"""An export or import that a full disk or a signal stops is one line, and no traceback."""

import errno
import os
import sys
import types

import pytest

from runners.processes.signals import Interrupted


@pytest.fixture
def export(run, monkeypatch, tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")

  def call(error):
    def fail(*arguments, **named):
      raise error

    module = types.SimpleNamespace(export_folder=fail)
    monkeypatch.setitem(sys.modules, "runners.interchange.hugging_face_export", module)
    return run("export", "--workdir=run", "--to=there")

  return call


@pytest.mark.parametrize(
  "error",
  [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError("33152 requested and 0 written")],
)
def test_a_full_disk_is_one_line(export, error):
  code, _, (line,) = export(error)
  assert code == 2
  assert line.startswith("runner: error: there: No space left on device; make room")


def test_a_signal_ends_it_with_the_code_of_the_signal(export):
  code, _, err = export(Interrupted(15))
  assert (code, err) == (143, [])
