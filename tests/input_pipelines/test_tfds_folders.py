"""A TFDS data set that is not on this machine is refused at once, and one that is passes."""

import dataclasses
import types

import pytest

from input_pipelines.tfds_folders import check_prepared
from layers.errors import UserError


@dataclasses.dataclass
class Loader:
  """What seqio says of its TFDS data sets."""

  name: str | None
  folder: str | None
  tfds_splits: dict | None = None

  def get_split_params(self, split):
    return self.name, self.folder


def task(*loader):
  return types.SimpleNamespace(
    name="wiki", source=types.SimpleNamespace(tfds_dataset=Loader(*loader))
  )


@pytest.fixture
def folder(tmp_path):
  whole = tmp_path / "wiki40b" / "en" / "1.3.0"
  whole.mkdir(parents=True)
  (whole / "dataset_info.json").write_text("{}")
  broken = tmp_path / "c4" / "en" / "incomplete.XYZ_3.1.0"
  broken.mkdir(parents=True)
  (broken / "dataset_info.json").write_text("{}")
  return str(tmp_path)


@pytest.mark.parametrize(
  "name", ["wiki40b/en:1.3.0", "wiki40b/en:1.*.*", "wiki40b/en", "wiki40b"]
)
def test_a_data_set_in_its_folder_passes(folder, monkeypatch, name):
  check_prepared(task(name, folder), "train")
  monkeypatch.setenv("TFDS_DATA_DIR", folder)
  check_prepared(task(name, None), "train")


@pytest.mark.parametrize("name", ["wiki40b/en:1.2.0", "wiki40b/de", "c4/en", "squad"])
def test_a_data_set_that_is_not_there_is_refused_with_what_to_do(folder, name):
  with pytest.raises(UserError) as raised:
    check_prepared(task(name, folder), "train")
  message = str(raised.value)
  assert f"task wiki reads {name} of TensorFlow Datasets from {folder}, and" in message
  assert f"tfds build {name.partition(':')[0]} --data_dir={folder}" in message


def test_a_missing_folder_is_named_as_that(folder, monkeypatch):
  with pytest.raises(UserError, match="from .*/none, a folder that is not there"):
    check_prepared(task("squad", f"{folder}/none"), "train")
  monkeypatch.setenv("TFDS_DATA_DIR", f"{folder}/none")
  with pytest.raises(UserError, match="from .*/none, a folder that is not there"):
    check_prepared(task("squad", None), "train")


def test_other_sources_remote_folders_and_other_splits_pass():
  check_prepared(types.SimpleNamespace(name="x", source=object()), "train")
  check_prepared(task("squad", "gs://bucket/tfds"), "train")
  check_prepared(task("squad", "/none", {"validation": object()}), "train")
