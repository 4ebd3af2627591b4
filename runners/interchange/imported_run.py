"""A run made of parameters that come from elsewhere: a config and a checkpoint of step 0."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fiddle as fdl
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from input_pipelines.progress import Progress
from layers.errors import UserError
from layers.tokens import Tokens
from runners.array_names import array_name, named_arrays
from runners.checkpoints.damage import listed
from runners.checkpoints.finiteness import non_finite
from runners.checkpoints.folders import CHECKPOINTS
from runners.checkpoints.retention import Checkpoints
from runners.checkpoints.writing import IMPORTED, CheckpointWriter
from runners.configs import files as config_files
from runners.processes import signals
from runners.processes.folder_lock import hold


def check_free(workdir: str | Path) -> None:
  """Raises UserError where there is a run already."""
  path = Path(workdir)
  if (path / config_files.JSON_NAME).exists():
    raise UserError(f"{workdir} holds a run already: choose another --workdir")
  if (path / CHECKPOINTS).exists():
    raise UserError(
      f"{workdir} holds checkpoints without a {config_files.JSON_NAME}, as an import that was "
      "killed leaves them: remove that folder, or choose another --workdir"
    )


def param_shapes(model: Any) -> Any:
  """The tree of a built model's parameters as shapes, unboxed; nothing is allocated."""
  blank = jnp.zeros((1, 1), jnp.int32)

  def init() -> Any:
    return model.init(jax.random.key(0), blank, Tokens(blank, blank + 1, blank[:, 0]))

  return nn.unbox(jax.eval_shape(init)["params"])


def write_run(
  workdir: Path,
  config: fdl.Config,
  exp: str,
  shapes: Any,
  read: Callable[[str], np.ndarray],
  *,
  source: str,
  finish: Callable[[], None] = lambda: None,
) -> None:
  """Writes the run; what has a config.json is whole. An error leaves no part of it.

  Args:
    workdir: without a run in it.
    config, exp: of the run.
    shapes: the tree of its parameters.
    read: gives an array by its name, once for each; no two are held at a time.
    source: where they come from, for the record.
    finish: whatever else is to be written first.
  """
  lock = hold(workdir)
  try:
    # As files mapped into memory, arrays wait for the checkpoint without filling it.
    with tempfile.TemporaryDirectory(dir=workdir, prefix=".import-") as scratch:
      with Progress("importing", len(jax.tree.leaves(shapes)), "arrays") as progress:
        read = progress.counting(read)
        mapped = lambda at, _: _mapped(read(array_name(at)), Path(scratch))
        _save(workdir, jax.tree_util.tree_map_with_path(mapped, shapes), source)
    finish()
    config_files.save(config, exp, workdir)
  except BaseException:
    shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
    raise
  finally:
    lock.close()


class _Mapped(np.memmap):
  """An array in a file that nobody changes: Orbax may save it without a copy of its own."""

  def __deepcopy__(self, memo: Any) -> "_Mapped":
    return self


def _mapped(x: np.ndarray, scratch: Path) -> np.ndarray:
  signals.check()
  file = tempfile.NamedTemporaryFile(dir=scratch, delete=False)
  with file:
    np.ascontiguousarray(x).reshape(-1).view(np.uint8).tofile(file)
  return _Mapped(file.name, np.uint8, "r").view(x.dtype).reshape(x.shape)


def _save(workdir: Path, params: Any, source: str) -> None:
  wrong, _ = non_finite(dict(named_arrays(params)))
  if wrong:
    raise UserError(f"{source}: {len(wrong)} parameters are not finite ({listed(wrong)})")
  directory = workdir / CHECKPOINTS
  directory.mkdir()
  writer = CheckpointWriter(directory, Checkpoints())
  try:
    writer.save_params(0, params, {IMPORTED: str(Path(source).absolute())})
    writer.wait()
  finally:
    writer.close()
