"""Nothing outside a stranger's folder is read, and nothing without end."""

import os

import pytest

from input_pipelines.foreign_files import file_within, read_bytes
from layers.errors import UserError


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
  with pytest.raises(UserError, match="not within that folder"):
    file_within(tmp_path, name)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(tmp_path):
  folder = tmp_path / "theirs"
  folder.mkdir()
  (tmp_path / "secret").write_text("s")
  (folder / "real").write_text("r")
  (folder / "out").symlink_to("../secret")
  (folder / "within").symlink_to("real")
  with pytest.raises(UserError, match="outside of its folder"):
    file_within(folder, "out")
  assert file_within(folder, "within").read_text() == "r"


def test_links_of_the_hubs_cache_are_followed(tmp_path):
  snapshot = tmp_path / "models--x" / "snapshots" / "abc"
  blobs = tmp_path / "models--x" / "blobs"
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  (blobs / "1f").write_text("blob")
  (tmp_path / "models--x" / "other").write_text("other")
  (snapshot / "config.json").symlink_to("../../blobs/1f")
  (snapshot / "extra.json").symlink_to("../../other")
  assert file_within(snapshot, "config.json").read_text() == "blob"
  with pytest.raises(UserError, match="outside of its folder"):
    file_within(snapshot, "extra.json")


def test_links_in_a_circle_pipes_and_devices_are_refused(tmp_path):
  (tmp_path / "a").symlink_to("b")
  (tmp_path / "b").symlink_to("a")
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UserError):
    read_bytes(file_within(tmp_path, "a"), 10)
  with pytest.raises(UserError, match="no file"):
    file_within(tmp_path, "pipe")
  with pytest.raises(UserError, match="no regular file"):
    read_bytes(tmp_path / "pipe", 10)
  with pytest.raises(UserError, match="no regular file"):
    read_bytes("/dev/zero", 10)


def test_a_file_is_read_up_to_its_limit(tmp_path):
  (tmp_path / "ten").write_bytes(b"0123456789")
  assert read_bytes(tmp_path / "ten", 10) == b"0123456789"
  with pytest.raises(UserError, match="more than 9 bytes"):
    read_bytes(tmp_path / "ten", 9)
  with pytest.raises(UserError, match="No such file"):
    read_bytes(tmp_path / "none", 9)
