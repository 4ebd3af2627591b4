"""A run writes in its workdir alone, whatever links somebody has put there."""

import os
from pathlib import Path

import pytest

from layers.errors import UserError
from runners.processes.folder_lock import hold
from runners.processes.workdir_entries import (
  FILES,
  FOLDERS,
  check_entries,
  open_file,
  replace_file,
)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
@pytest.mark.parametrize("target", ["../elsewhere", "/nowhere/at/all", "other", "."])
def test_a_link_where_a_run_would_write_is_refused_in_one_line(tmp_path, name, target):
  run = tmp_path / "run"
  run.mkdir()
  (tmp_path / "elsewhere").write_text("precious")
  (run / name).symlink_to(target)
  with pytest.raises(UserError, match=f"{name} is a link") as error:
    hold(run)
  assert "\n" not in str(error.value)
  assert (tmp_path / "elsewhere").read_text() == "precious"
  (run / name).unlink()
  hold(run).close()  # the refusal has let go


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, name):
  (tmp_path / name).write_text("x")
  with pytest.raises(UserError, match=f"{name} is no folder"):
    check_entries(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_one_is_refused(tmp_path, name, make):
  make(tmp_path / name)
  with pytest.raises(UserError, match=f"{name} is no file"):
    check_entries(tmp_path)


def test_a_workdir_may_itself_be_a_link(tmp_path):
  (tmp_path / "disk").mkdir()
  (tmp_path / "runs").symlink_to(tmp_path / "disk")
  hold(tmp_path / "runs" / "one").close()
  assert (tmp_path / "disk" / "one" / ".lock").is_file()


def test_a_file_is_replaced_as_a_whole_and_never_through_a_link(tmp_path, monkeypatch):
  file = tmp_path / "run.json"
  (tmp_path / "precious").write_text("precious")
  (tmp_path / f".run.json.{os.getpid()}").symlink_to(tmp_path / "precious")
  replace_file(file, "old")
  assert (file.read_text(), (tmp_path / "precious").read_text()) == ("old", "precious")

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space left"):
    replace_file(file, "new")
  assert file.read_text() == "old"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run.json"]


def test_a_file_is_not_opened_through_a_link(tmp_path):
  (tmp_path / "precious").write_text("precious")
  (tmp_path / "log").symlink_to(tmp_path / "precious")
  for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
    with pytest.raises(UserError, match="log is a link"):
      open_file(Path(tmp_path / "log"), flags)
