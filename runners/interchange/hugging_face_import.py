"""`runner import`: a Hugging Face folder becomes a run with a checkpoint of step 0.

The run can be evaluated, inspected, used by init_from and exported. It cannot be resumed, since
it has no optimizer state. Arrays keep their dtypes.
"""

import shutil
from pathlib import Path

import fiddle as fdl
import jax

from input_pipelines.foreign_json import Document
from layers.errors import UserError
from runners.array_names import named_arrays
from runners.interchange.hugging_face_config import (
  differences,
  family_of,
  read_config,
  set_fields,
)
from runners.interchange.imported_run import check_free, param_shapes, write_run
from runners.interchange.params_reading import (
  ParamsReader,
  check_sizes,
  copied_files,
  copy_file,
)
from runners.interchange.safetensors_files import TensorFolder

THEIR_FILES = "hugging_face"  # subfolder of the run with their config and tokenizer


def import_folder(
  folder: str, workdir: str, config: fdl.Config, exp: str, *, adapt: bool
) -> None:
  """Writes the run.

  Args:
    folder: their folder with config.json and safetensors.
    workdir: a folder without a run.
    config: config of a Trainer whose model is of the same family.
    exp: the name of the experiment that made `config`.
    adapt: set the model's fields to their values; otherwise the values must agree.

  Raises:
    UserError: the folder cannot be read, its model differs, or `workdir` has a run.
  """
  theirs = read_config(folder)
  check_free(workdir)
  path = Path(workdir)
  copied_files(Path(folder))  # raises for files that cannot be copied before writing any
  with TensorFolder(folder) as tensors:
    _fill(config, theirs, folder, adapt=adapt)
    check_sizes(theirs, tensors.tensors)
    shapes = param_shapes(fdl.build(config.model))
    names = {name: tuple(x.shape) for name, x in named_arrays(shapes)}
    reader = ParamsReader(tensors, family_of(theirs), config.model.num_layers, names)
    write_run(
      path,
      config,
      exp,
      shapes,
      reader.read,
      source=folder,
      finish=lambda: _copy_files(Path(folder), path / THEIR_FILES),
    )
  num_params = sum(x.size for x in jax.tree.leaves(shapes))
  print(f"imported    {reader.num_tensors} tensors, {num_params:,} parameters, of {folder}")
  print(f"workdir     {workdir}: a checkpoint of step 0, as a model of {exp}")


def _fill(config: fdl.Config, theirs: Document, folder: str, *, adapt: bool) -> None:
  """Completes the model's fields from their config; unless `adapt`, refuses differences."""
  if not adapt:
    wrong = differences(fdl.build(config.model), theirs)
    if wrong:
      raise UserError(f"{folder} holds another model: {'; '.join(wrong)}")
  set_fields(config.model, theirs)


def _copy_files(folder: Path, target: Path) -> None:
  if target.is_symlink():
    raise UserError(f"{target} is a link, through which nothing is written: take it away")
  shutil.rmtree(target, ignore_errors=True)  # left by an import that failed
  target.mkdir()
  for file in copied_files(folder):
    copy_file(file, target / file.name)
