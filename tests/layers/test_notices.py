"""A note is printed once for each text, in a form of its own; a remark never is."""

import re
import sys
import threading
from pathlib import Path

import pytest

from layers.notices import heard, note, remark

ROOT = Path(__file__).parents[2]


def test_a_note_is_one_line_on_stderr_once_for_each_text(capsys):
  for text in ("the mesh is idle", "two\nlines", "the mesh is idle"):
    note(text)
  assert capsys.readouterr() == ("", "note: the mesh is idle\nnote: two lines\n")


def test_a_remark_is_on_record_and_not_printed(capsys):
  with heard() as inner:
    note("a note")
    remark("a remark")
  note("later")
  assert inner == ["a note", "a remark"]
  assert capsys.readouterr().err == "note: a note\nnote: later\n"


def test_what_is_heard_in_silence_is_printed_when_it_is_said_again(capsys):
  with heard(aloud=False) as inner:
    thread = threading.Thread(target=note, args=["from a thread"])
    thread.start()
    thread.join()
  assert inner == ["from a thread"] and capsys.readouterr().err == ""
  note("from a thread")
  assert capsys.readouterr().err == "note: from a thread\n"


def test_an_error_within_ends_the_silence(capsys):
  with pytest.raises(RuntimeError), heard(aloud=False):
    raise RuntimeError
  note("again aloud")
  assert capsys.readouterr().err == "note: again aloud\n"


def test_a_note_that_cannot_be_written_stops_nothing(monkeypatch):
  closed = open("/dev/null", "w")
  closed.close()
  monkeypatch.setattr(sys, "stderr", closed)
  note("nobody hears this")


def test_no_other_module_logs_for_users():
  floors = ("experiments", "runners", "tasks", "input_pipelines", "layers")
  files = [file for floor in floors for file in (ROOT / floor).rglob("*.py")]
  assert len(files) > 100
  logs = re.compile(r"logging\.(debug|info|warning|error|exception|log)\(")
  assert [file for file in files if logs.search(file.read_text())] == []
