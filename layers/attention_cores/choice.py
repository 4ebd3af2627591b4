"""Which kernel attends on a device: the one rule for `auto_attention` and for rings.

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
# Whole rows below so many tokens would mostly fill up a flash kernel's blocks.
_SHORT = 256


class Choice(NamedTuple):
  """A core, and in a few words why it was taken."""

  core: AttentionCore
  why: str


def kernel_for(request: AttentionRequest, *, ring_size: int | None = None) -> Choice:
  """The core for a device's rows, by platform, lengths, mask, dropout and dtype.

  Dense where weights are dropped or few; the platform's flash kernel where there is one that
  honours all that is asked; else blockwise. Without a mesh, as where a model is only asked for
  its shapes, no kernel is made.

  Args:
    request: of whole rows; of its heads only the shapes are read.
    ring_size: how many devices each row is split over, where the kernel is for the steps of a
      ring: it then meets some of a row's keys at a time, and has to tell the log of its sums.
      None: all of a row is on the device.
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
  """The platform's, for `length` tokens on a device; a note says why there is none."""
  if platform() == "tpu" and splash_kernels.is_known(request.mask, in_parts=in_ring):
    if length <= splash_kernels.MOST_TOKENS:
      return Choice(SplashAttention(), f"rows of {length} tokens on a TPU")
    why = f"its tables take too long to make for rows of {length} tokens: split them"
    note(f"Attention is not SplashAttention: {why} over mesh.sequence.")
  # cuDNN keeps the log of its sums to itself, so that no ring can join its results.
  if platform() == "gpu" and not in_ring:
    refusal = cudnn.refusal(request.query.shape[-1], request.compute_dtype)
    if refusal is None:
      return Choice(CudnnAttention(), f"rows of {length} tokens on a GPU, with cuDNN")
    note(f"Attention is not CudnnAttention: it {refusal}.")
  return None
