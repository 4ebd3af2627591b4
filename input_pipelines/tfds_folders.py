"""Whether a data set of TensorFlow Datasets lies on this machine.

Where it does not, tfds asks the network for it, which without one goes on for minutes.
"""

import os
from pathlib import Path
from typing import Any

from layers.errors import UserError


def check_prepared(task: Any, split: str) -> None:
  """UserError where the seqio Task reads a data set that has not been prepared.

  Tasks that read anything else, and folders at a URL, pass.
  """
  loader = getattr(task.source, "tfds_dataset", None)
  if loader is None or (loader.tfds_splits and split not in loader.tfds_splits):
    return
  name, folder = loader.get_split_params(split)
  folder = str(folder or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
  if "://" in folder:
    return
  path = Path(os.path.expanduser(folder))
  dataset, _, version = (name or "").partition(":")
  if _is_prepared(path / dataset, "" if "*" in version else version):
    return
  build = f"tfds build {dataset} --data_dir={folder}"
  missing = "" if path.is_dir() else ", a folder that is not there"
  raise UserError(
    f"the seqio task {task.name} reads {name or 'a data set'} of TensorFlow Datasets from "
    f"{folder}{missing}, and it is not in it; prepare it where there is a network ({build}), "
    "or give the folder that has it: tfds_data_dir of the task's source, or TFDS_DATA_DIR"
  )


def _is_prepared(folder: Path, version: str) -> bool:
  """Whether a configuration of the data set, of the version if one is asked for, is there."""
  infos = folder.rglob("dataset_info.json") if folder.is_dir() else ()
  return any(
    version in ("", info.parent.name) and "incomplete." not in str(info) for info in infos
  )
