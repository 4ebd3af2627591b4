"""The attention core that suits the platform, the mesh and the length.

Letters: T query length, S key length.
"""

import jax

from layers.attention_cores import cudnn as cudnn_attention
from layers.attention_cores import splash_kernels
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.cudnn import CudnnAttention
from layers.attention_cores.dense import AttentionCore, dense_attention
from layers.attention_cores.heads_and_rows import SPLIT_ROWS
from layers.attention_cores.ring import RingAttention
from layers.attention_cores.splash import SplashAttention
from layers.dropout import Drop
from layers.masks import Mask, causal_mask
from layers.notices import note, remark
from layers.sharding import axis_devices, on_mesh, platform
from layers.tokens import Tokens

# Below so many scores of one head, all of them at once are faster than block by block.
_FEW_SCORES = 1024 * 1024
# Rows below so many tokens would mostly fill up a flash kernel's blocks.
_SHORT = 256


def auto_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
  *,
  mask: Mask = causal_mask,
  compute_dtype: str = "float32",
  drop_weights: Drop | None = None,
) -> jax.Array:
  """See `AttentionCore`. What it chose goes on record (layers/notices.py).

  Dense where weights are dropped or few; a ring where the rows are split over devices; the
  platform's flash kernel where there is one that honours all that is asked; else blockwise.
  Without a mesh, as where a model is only asked for its shapes, no kernel is made.
  """
  if drop_weights is not None:
    core = _said("dense_attention", "the only core that drops weights", dense_attention)
  elif query_tokens is key_tokens:
    core = core_for_rows(query.shape[1], query.shape[-1], mask, compute_dtype)
  else:
    core = _choose_for_any(query.shape[1], key.shape[1])
  return core(
    query,
    key,
    value,
    query_tokens,
    key_tokens,
    mask=mask,
    compute_dtype=compute_dtype,
    drop_weights=drop_weights,
  )


def core_for_rows(length: int, head_dim: int, mask: Mask, compute_dtype: str) -> AttentionCore:
  """What `auto_attention` takes where rows of `length` tokens attend to themselves."""
  _, ring_size = axis_devices("length", SPLIT_ROWS)
  if ring_size > 1:
    why = f"rows of {length} tokens lie on {ring_size} devices"
    return _said("RingAttention", why, RingAttention())
  if length < _SHORT or not on_mesh():
    return _choose_for_any(length, length)
  if platform() == "tpu" and splash_kernels.is_known(mask):
    if length <= splash_kernels.MOST_TOKENS:
      why = f"rows of {length} tokens on a TPU"
      return _said("SplashAttention", why, SplashAttention())
    why = f"its tables take too long to make for rows of {length} tokens: split them"
    note(f"Attention is not SplashAttention: {why} over mesh.sequence.")
  if platform() == "gpu":
    refusal = cudnn_attention.refusal(head_dim, compute_dtype)
    if refusal is None:
      why = f"rows of {length} tokens on a GPU, with cuDNN"
      return _said("CudnnAttention", why, CudnnAttention())
    note(f"Attention is not CudnnAttention: it {refusal}.")
  return _choose_for_any(length, length)


def _choose_for_any(num_queries: int, num_keys: int) -> AttentionCore:
  if num_queries * num_keys <= _FEW_SCORES:
    why = f"{num_queries} x {num_keys} scores are few"
    return _said("dense_attention", why, dense_attention)
  why = f"{num_queries} x {num_keys} scores of a head at once take too much memory"
  return _said("BlockwiseAttention", why, BlockwiseAttention())


def _said(name: str, why: str, core: AttentionCore) -> AttentionCore:
  if on_mesh():  # without one another core may be chosen, and is not run
    remark(f"Attention is {name}: {why}.")
  return core
