"""Whether a data set of TensorFlow Datasets is on this machine.

If it is not, tfds tries to download it, which without a network takes minutes to fail.
"""

import os
from pathlib import Path
from typing import Any

from layers.errors import UserError


def check_prepared(task: Any, split: str) -> None:
  """Raises UserError if the seqio Task reads a data set that has not been prepared.

  Tasks that read other sources, or folders at a URL, pass.
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
  """Whether any configuration of the data set (of `version`, if given) is in the folder."""
  infos = folder.rglob("dataset_info.json") if folder.is_dir() else ()
  return any(
    version in ("", info.parent.name) and "incomplete." not in str(info) for info in infos
  )
