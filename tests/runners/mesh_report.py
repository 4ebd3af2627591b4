"""What a short run looks like on one mesh, as JSON: for processes that simulate devices."""

import hashlib
import os
from typing import Any

import fiddle as fdl
import jax
import numpy as np

from runners import compilation_cache, optimizers
from runners.meshes import MeshShape
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

  Rows that pad the vocabulary are apart: how many there are is the mesh's.
  """
  compilation_cache.enable(os.environ["STRATA_CACHE"])
  assembly, state = toy_run.begin(config, os.environ["STRATA_CACHE"])
  params = jax.tree.map(np.asarray, state.params)
  table = params["embedding"]["table"]
  real, padding = np.split(table, [assembly.trainer.model.vocab_size])
  params["embedding"]["table"] = real
  digest = hashlib.sha256(b"".join(x.tobytes() for x in jax.tree.leaves(params)))
  state, losses = toy_run.take_steps(assembly, state, num_steps)
  adam = next(x for x in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(x))
  after = np.asarray(state.params["embedding"]["table"])[len(real) :]
  return {
    "params": digest.hexdigest(),
    "num_padding": len(padding),
    "padding_is_zero": not padding.any() and not after.any(),
    "losses": losses,
    "layout": {
      "params": _layout(state.params),
      "mu": _layout(adam.mu),
      "nu": _layout(adam.nu),
    },
  }


def _is_adam(x: Any) -> bool:
  return hasattr(x, "mu")


def _layout(tree: Any) -> dict[str, str]:
  """Path -> how the array is split, as text."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): str(x.sharding.spec) for path, x in leaves}
