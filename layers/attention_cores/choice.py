"""Chooses a device's attention kernel: the one rule for `auto_attention` and for rings.

Letters: T query length, S key length.
"""

import math
from typing import NamedTuple

from layers.attention_cores import cudnn, splash_kernels
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.cudnn import CudnnAttention
from layers.attention_cores.dense import AttentionCore, dense_attention
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.splash import SplashAttention
from layers.notices import note
from layers.sharding import on_mesh, platform

# Below so many scores of one head, all of them at once are faster than block by block.
_FEW_SCORES = 1024 * 1024
# Whole rows of fewer tokens would leave a flash kernel's blocks mostly padding.
_SHORT = 256


class Choice(NamedTuple):
  """A core, and in a few words the reason for it."""

  core: AttentionCore
  why: str


def kernel_for(request: AttentionRequest, *, ring_size: int | None = None) -> Choice:
  """The core for a device's rows, by platform, lengths, mask, dropout and dtype.

  Dense if weights are dropped or few; else the platform's flash kernel, if it supports the
  whole request; else blockwise. Without a mesh, as when only a model's shapes are wanted, no
  kernel is made.

  Args:
    request: whole rows; only the shapes of its heads are read.
    ring_size: number of devices over which a ring splits each row. A kernel for a ring's steps
      gets some of a row's keys at a time, and must return the log of its sums. None: each row
      is whole on its device.
  """
  num_queries, num_keys = request.query.shape[1], request.key.shape[1]
  if request.drop_weights is not None:
    return Choice(dense_attention, "the only core that drops weights")
  in_ring = ring_size is not None
  length = math.ceil(num_queries / (ring_size or 1))
  if request.same_tokens and on_mesh() and (in_ring or length >= _SHORT):
    flash = _flash_kernel(request, length, in_ring)
    if flash is not None:
      return flash
  if in_ring:
    return Choice(BlockwiseAttention(), "any device attends to any keys in blocks")
  if num_queries * num_keys <= _FEW_SCORES:
    return Choice(dense_attention, f"{num_queries} x {num_keys} scores are few")
  why = f"{num_queries} x {num_keys} scores of a head at once take too much memory"
  return Choice(BlockwiseAttention(), why)


def _flash_kernel(request: AttentionRequest, length: int, in_ring: bool) -> Choice | None:
  """The platform's flash kernel for `length` tokens on a device, or None and a note why."""
  if platform() == "tpu" and splash_kernels.is_known(request.mask, in_parts=in_ring):
    if length <= splash_kernels.MOST_TOKENS:
      return Choice(SplashAttention(), f"rows of {length} tokens on a TPU")
    why = f"its tables take too long to make for rows of {length} tokens: split them"
    note(f"Attention is not SplashAttention: {why} over mesh.sequence.")
  # cuDNN does not return the log of its sums, so a ring cannot join its results.
  if platform() == "gpu" and not in_ring:
    refusal = cudnn.refusal(request.query.shape[-1], request.compute_dtype)
    if refusal is None:
      return Choice(CudnnAttention(), f"rows of {length} tokens on a GPU, with cuDNN")
    note(f"Attention is not CudnnAttention: it {refusal}.")
  return None
