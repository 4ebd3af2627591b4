"""Makes a run from imported parameters: a config and a checkpoint of step 0."""

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
  """Raises UserError if `workdir` holds a run already."""
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
  """Writes the run, config.json last, so a folder that has one is complete.

  An error removes the checkpoint again.

  Args:
    workdir: a folder without a run.
    config, exp: the run's config, and its experiment's name.
    shapes: the tree of parameters as shapes.
    read: name -> array, called once for each; only one array is in memory at a time.
    source: where the parameters come from, for the record.
    finish: writes further files before config.json.
  """
  lock = hold(workdir)
  try:
    # Arrays wait for the checkpoint in memory-mapped files, which do not fill the memory.
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
  """An array in a file that nobody changes, so that Orbax need not copy it before saving."""

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
