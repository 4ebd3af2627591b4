"""What a short run looks like on one mesh, as JSON: for processes that simulate devices."""

import hashlib
import os
from typing import Any

import fiddle as fdl
import jax
import numpy as np

from runners import optimizers
from runners.devices.meshes import MeshShape
from tests.runners import toy_run

NUM_STEPS = 3


def mesh_config(mesh: dict[str, int], **fields: Any) -> fdl.Config:
  """Two layers, scanned, with dropout and AdamW, in microbatches of half the batch."""
  config = toy_run.toy_config(
    dropout_rate=0.1,
    batch_size=16,
    microbatch_size=8,
    optimizer=fdl.Config(optimizers.adamw, learning_rate=1e-2),
    mesh=fdl.Config(MeshShape, **mesh),
    **fields,
  )
  config.model.num_layers = 2
  config.model.scan_layers = True
  return config


def report(config: fdl.Config, num_steps: int = NUM_STEPS) -> dict[str, Any]:
  """Losses of a few steps, the first parameters and where parameters and moments lie.

  What pads the vocabulary is apart, rows of the table and columns of an untied head: how many
  there are is the mesh's.
  """
  assembly, state = toy_run.begin(config, os.environ["STRATA_CACHE"])
  vocab_size = assembly.trainer.model.vocab_size
  params, padding = _cut(state.params, vocab_size)
  digest = hashlib.sha256(b"".join(x.tobytes() for x in jax.tree.leaves(params)))
  state, losses = toy_run.take_steps(assembly, state, num_steps)
  adam = next(x for x in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(x))
  _, after = _cut(state.params, vocab_size)
  return {
    "params": digest.hexdigest(),
    "num_padding": len(padding[0]),
    "padding_is_zero": not any(x.any() for x in padding + after),
    "losses": losses,
    "layout": {
      "params": _layout(state.params),
      "mu": _layout(adam.mu),
      "nu": _layout(adam.nu),
    },
  }


def _cut(params: Any, vocab_size: int) -> tuple[Any, list[np.ndarray]]:
  """The parameters without what pads the vocabulary, and that: of the table, of the head."""
  padding = []

  def cut(path: Any, x: Any) -> np.ndarray:
    x, name = np.asarray(x), jax.tree_util.keystr(path, simple=True, separator="/")
    axis = {"embedding/table": 0, "head/projection/kernel": 1}.get(name)
    if axis is None:
      return x
    real, rest = np.split(x, [vocab_size], axis)
    padding.append(rest.swapaxes(0, axis))
    return np.ascontiguousarray(real)

  return jax.tree_util.tree_map_with_path(cut, params), padding


def _is_adam(x: Any) -> bool:
  return hasattr(x, "mu")


def _layout(tree: Any) -> dict[str, str]:
  """Path -> how the array is split, as text."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): str(x.sharding.spec) for path, x in leaves}
