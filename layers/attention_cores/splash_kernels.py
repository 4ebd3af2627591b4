"""Splash attention's Pallas kernels for TPU: the only place that knows how they are made.

Splash masks use places in a row, ours use positions in a segment. Tokens of a segment are in
the order of their positions, so distances agree. For a mask that counts from the segment's
first token, each query gets an adjusted place: a kernel computes its mask from `q_sequence`,
which may hold any numbers, and skips blocks only by the mask's reach.

Letters: B batch, T query length, S key length, N query heads, K key heads, H head dimension.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from layers.errors import UserError
from layers.masks import BlockCausal, Mask, SlidingWindow, causal_mask, full_mask
from layers.tokens import Tokens

# A register of a kernel holds 128 keys, or the segments of 128 queries.
LANES = 128

# The library makes a mask's table of blocks on the host, in time quadratic in the row: 4
# seconds for 32K tokens, a minute and a half for 128K.
MOST_TOKENS = 65_536


@dataclasses.dataclass(frozen=True)
class Kernel:
  """The parameters for which a kernel is compiled.

  Attributes:
    mask: a supported one, see `is_known`.
    num_heads: N.
    num_queries, num_keys: T and S, multiples of the blocks.
    query_block, key_block: tokens, multiples of 128.
    interpret: run as plain operations, for CPUs.
  """

  mask: Mask
  num_heads: int
  num_queries: int
  num_keys: int
  query_block: int
  key_block: int
  interpret: bool

  def attend(
    self, query: jax.Array, key: jax.Array, value: jax.Array, tokens: Tokens
  ) -> jax.Array:
    """Self-attention of whole rows, [B, N, T, H] in the query's dtype.

    Args:
      query: [B, N, T, H], scaled; head n reads key head n // (N / K).
      key, value: [B, K, S, H].
      tokens: [B, T], of queries and keys. Every query may see some key, at least its own.
    """
    made = _made(self, save_residuals=False)

    def attend_row(query, key, value, segments, places):
      placed = made if places is None else _placed(made, places)
      return placed(query, key, value, _segment_ids(segments, segments))

    rows = (query, key, value, tokens.segments, _places(self.mask, tokens))
    return jax.vmap(attend_row, in_axes=(0, 0, 0, 0, None if rows[4] is None else 0))(*rows)

  def attend_part(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """Attention to some of the keys, [B, N, T, H], and its log sum exp, [B, N, T].

    A query that may see none of these keys has a sum so low that its weight beside others is 0.

    Args:
      query, key, value: as for `attend`.
      query_segments, key_segments: [B, T], [B, S].
    """
    made = _made(self, save_residuals=True)

    def attend_row(query, key, value, queries, keys):
      mixed, (log_sum,) = made(query, key, value, _segment_ids(queries, keys))
      return mixed.astype(jnp.float32), log_sum

    return jax.vmap(attend_row)(query, key, value, query_segments, key_segments)

  def gradients(
    self,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    log_sum: jax.Array,
    gradient: jax.Array,
    delta: jax.Array,
  ) -> tuple[jax.Array, ...]:
    """The contribution of these keys to the gradients of query, key and value; float32.

    Args:
      query, key, value, query_segments, key_segments: as for `attend_part`.
      log_sum: [B, N, T], of the queries' attention to all keys.
      gradient: [B, N, T, H], of that attention.
      delta: [B, N, T], sum over H of gradient * attention.
    """
    # Private functions: the public gradient is only for attention to these keys alone.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    made, sizes = _made(self, False), {"bq": self.query_block, "bkv": self.key_block}
    names = ("is_mqa", "mask_value", "attn_logits_soft_cap", "mask_function", "interpret")
    layouts = {f"{x}_layout": getattr(made.kwargs["block_sizes"], f"{x}_layout") for x in "qkv"}
    options = {name: made.kwargs[name] for name in names} | layouts | sizes

    def row_gradients(query, key, value, queries, keys, *of_queries):
      operands = (query, key, value, _segment_ids(queries, keys), None, *of_queries)
      dquery = splash_attention_kernel._splash_attention_bwd_dq(
        *operands, mask_info=made.dq_mask_info, **options
      )
      _, dkey, dvalue = splash_attention_kernel._splash_attention_bwd_dkv(
        *operands,
        bkv_compute=self.key_block,
        use_fused_bwd_kernel=False,
        mask_info=made.dkv_mask_info,
        **options,
      )
      return tuple(x.astype(jnp.float32) for x in (dquery, dkey, dvalue))

    rows = (query, key, value, query_segments, key_segments, log_sum, gradient, delta)
    return jax.vmap(row_gradients)(*rows)


def is_known(mask: Mask, *, in_parts: bool = False) -> bool:
  """Whether a kernel can compute `mask`; in parts (`attend_part`) those that need no places."""
  if mask in (causal_mask, full_mask):
    return True
  return not in_parts and isinstance(mask, (SlidingWindow, BlockCausal))


def block(size: int, length: int) -> int:
  """The block size for rows of `length` tokens: a multiple of 128, at most `size`."""
  return min(size, length + -length % LANES)


def check_block(size: int, owner: Any) -> None:
  """Raises UserError for a block size that no kernel supports."""
  if size < LANES or size % LANES:
    raise UserError(f"{owner}: a block of {size} tokens is not a multiple of {LANES}")


def _places(mask: Mask, tokens: Tokens) -> jax.Array | None:
  """[B, T]: where each query's block of the mask begins in the row; None: its own place."""
  if not isinstance(mask, BlockCausal):
    return None
  places = jnp.arange(tokens.positions.shape[1], dtype=jnp.int32)
  return places - tokens.positions % mask.size


def _placed(made: Any, places: jax.Array) -> Any:
  """The kernel with its queries at `places` [T]."""
  infos = (made.fwd_mask_info, made.dq_mask_info, made.dkv_mask_info)
  return type(made)(*(info._replace(q_sequence=places) for info in infos), **made.kwargs)


def _segment_ids(queries: jax.Array, keys: jax.Array) -> Any:
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  return splash.SegmentIds(queries, keys)


@functools.lru_cache(maxsize=32)
def _made(kernel: Kernel, save_residuals: bool) -> Any:
  """The library's kernel with numpy arrays, which belong to no trace."""
  # Pallas takes a second to import, so it is imported only for use.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  sizes = splash.BlockSizes(
    block_q=kernel.query_block,
    block_kv=kernel.key_block,
    block_q_dkv=kernel.query_block,
    block_kv_dkv=kernel.key_block,
    block_q_dq=kernel.query_block,
    block_kv_dq=kernel.key_block,
  )
  mask = splash.MultiHeadMask([_library_mask(kernel)] * kernel.num_heads)
  with jax.ensure_compile_time_eval():
    made = splash.make_splash_mha(
      mask,
      block_sizes=sizes,
      head_shards=1,
      q_seq_shards=1,
      save_residuals=save_residuals,
      # A policy that keeps these saves attending again. For a part, the ring keeps the whole.
      residual_checkpoint_name=None if save_residuals else "attention",
      interpret=kernel.interpret,
    )
    return jax.tree.map(np.asarray, made)


def _library_mask(kernel: Kernel) -> Any:
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  shape, mask = (kernel.num_queries, kernel.num_keys), kernel.mask
  if isinstance(mask, SlidingWindow):
    return splash.LocalMask(shape, (mask.size - 1, 0), offset=0)
  if isinstance(mask, BlockCausal):
    # A query's place is its block's beginning, and the block's last token lies so far ahead.
    return splash.CausalMask(shape, offset=mask.size - 1)
  return splash.CausalMask(shape) if mask is causal_mask else splash.FullMask(shape)


def share_of_blocks(name: str, tables: Sequence[Any]) -> float:
  """The part of a kernel's grid in which it computes, for counts of its FLOPs.

  Args:
    name: the kernel's; one that is not the library's computes everywhere.
    tables: its scalar operands, None where a value is not known.
  """
  blocks = tables[1] if len(tables) > 1 else None  # after the places of the next blocks
  if not name.startswith("splash_m") or blocks is None:
    return 1.0
  return float(np.mean(np.asarray(blocks) != 0))
