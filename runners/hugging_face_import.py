"""`runner import`: a Hugging Face folder becomes a run with a checkpoint of step 0.

The run can be evaluated, looked at, begun from (init_from) and exported; it is no run to go on
with, for it has no optimizer. Its arrays have the dtypes that theirs have.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fiddle as fdl
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from layers.errors import UserError
from layers.tokens import Tokens
from runners import config_files
from runners.checkpoint_inventory import array_name, named_arrays
from runners.checkpoint_listing import CHECKPOINTS
from runners.checkpoints import IMPORTED, CheckpointWriter
from runners.folder_lock import hold
from runners.hugging_face_config import differences, read_config, set_fields
from runners.hugging_face_reading import ParamsReader, copied_files
from runners.retention import Checkpoints
from runners.safetensors_files import TensorFolder

THEIR_FILES = "hugging_face"  # in the run's folder: their config and tokenizer


def import_folder(
  folder: str, workdir: str, config: fdl.Config, exp: str, *, adapt: bool
) -> None:
  """Writes the run.

  Args:
    folder: theirs: config.json and safetensors.
    workdir: without a run in it.
    config: of a Trainer whose model is of the same family.
    exp: the name of the experiment that `config` is of.
    adapt: give the model the numbers of theirs; otherwise it has to have them.

  Raises:
    UserError: the folder cannot be read, its model is another one, or `workdir` has a run.
  """
  theirs = read_config(folder)
  _fill(config, theirs, folder, adapt=adapt)
  path = Path(workdir)
  if (path / config_files.JSON_NAME).exists() or (path / CHECKPOINTS).exists():
    raise UserError(f"{workdir} holds a run already: choose another --workdir")
  shapes = param_shapes(fdl.build(config.model))
  with TensorFolder(folder) as tensors:
    names = {name: tuple(x.shape) for name, x in named_arrays(shapes)}
    reader = ParamsReader(tensors, theirs, names)
    lock = hold(path)
    try:
      # As files mapped into memory, arrays wait for the checkpoint without filling it.
      with tempfile.TemporaryDirectory(dir=path, prefix=".import-") as scratch:
        read = lambda at, _: _mapped(reader.read(array_name(at)), Path(scratch))
        _save(path, jax.tree_util.tree_map_with_path(read, shapes), folder)
      _copy_files(Path(folder), path / THEIR_FILES)
      config_files.save(config, exp, path)  # last: what has a config is a run
    finally:
      lock.close()
  num_params = sum(x.size for x in jax.tree.leaves(shapes))
  print(f"imported    {reader.num_tensors} tensors, {num_params:,} parameters, of {folder}")
  print(f"workdir     {workdir}: a checkpoint of step 0, as a model of {exp}")


def _fill(config: fdl.Config, theirs: Mapping[str, Any], folder: str, *, adapt: bool) -> None:
  """Gives the model what it leaves to theirs, or refuses what contradicts theirs."""
  if not adapt:
    wrong = differences(fdl.build(config.model), theirs)
    if wrong:
      raise UserError(f"{folder} holds another model: {'; '.join(wrong)}")
  set_fields(config.model, theirs)


def param_shapes(model: Any) -> Any:
  """The tree of a built model's parameters as shapes, unboxed; nothing is allocated."""
  blank = jnp.zeros((1, 1), jnp.int32)

  def init() -> Any:
    return model.init(jax.random.key(0), blank, Tokens(blank, blank + 1, blank[:, 0]))

  return nn.unbox(jax.eval_shape(init)["params"])


def _mapped(x: np.ndarray, scratch: Path) -> np.ndarray:
  file = tempfile.NamedTemporaryFile(dir=scratch, delete=False)
  with file:
    np.ascontiguousarray(x).reshape(-1).view(np.uint8).tofile(file)
  return np.memmap(file.name, np.uint8, "r").view(x.dtype).reshape(x.shape)


def _save(workdir: Path, params: Any, folder: str) -> None:
  directory = workdir / CHECKPOINTS
  directory.mkdir()
  writer = CheckpointWriter(directory, Checkpoints())
  try:
    writer.save_params(0, params, {IMPORTED: str(Path(folder).absolute())})
    writer.wait()
  finally:
    writer.close()


def _copy_files(folder: Path, target: Path) -> None:
  target.mkdir()
  for file in copied_files(folder):
    shutil.copyfile(file, target / file.name)
