"""Attention over rows that are split over devices (Liu et al., 2023, https://arxiv.org/abs/2310.01889).

Each device keeps its queries. Keys and values travel round the ring; a device attends to the
current ones while the next ones arrive. In the backward pass their gradients travel with them,
and weights are computed again: no step of the ring keeps anything.

Letters: B batch, K key heads, G query heads per key head, T length on a device, H head
dimension, R devices of the ring, C = T / 2 chunk.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from layers import dtypes
from layers.attention_cores import block_pairs as attention_blocks
from layers.attention_cores import splash_kernels
from layers.attention_cores.block_pairs import Blocks, Side
from layers.attention_cores.blockwise import BlockwiseAttention, pairs, refuse_dropout
from layers.attention_cores.choice import kernel_for
from layers.attention_cores.heads_and_rows import (
  SPLIT_ROWS,
  both_filled,
  by_head,
  by_key_head,
  by_token,
)
from layers.attention_cores.online_softmax import Gradients, Partial, kept
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.splash import SplashAttention, refuse_gpu
from layers.attention_cores.splash_ring import SplashRing
from layers.attention_cores.zigzag import Ring
from layers.errors import UserError
from layers.masks import Mask, reach
from layers.sharding import axis_devices, per_device
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingAttention:
  """Exact attention over a row whose tokens lie along a mesh axis.

  If rows are not split, or if keys have other tokens than queries (generation), it is
  blockwise.

  The rule for "length" names the ring's axes, of any size. A length that it does not divide is
  padded.

  Attributes:
    inner: computes a step of the ring, in blocks of at most a chunk: `SplashAttention`, whose
      kernels support causal and full masks here, or `BlockwiseAttention`, which supports every
      mask. None: `kernel_for` chooses.
  """

  inner: SplashAttention | BlockwiseAttention | None = None

  def __call__(self, request: AttentionRequest) -> jax.Array:
    """See `AttentionCore`.

    Raises:
      UserError: dropout of the attention weights, a mask that `inner` does not support,
        `SplashAttention` on a GPU.
    """
    refuse_dropout(request, "RingAttention")
    ring = Ring(*axis_devices("length", SPLIT_ROWS))
    inner: Any = self._given(request.mask) or kernel_for(request, ring_size=ring.size).core
    if ring.size == 1 or not request.same_tokens:
      return inner(request)
    if isinstance(inner, SplashAttention):
      return SplashRing.of(inner, ring, request)(request)
    return _by_blocks(inner, ring, request)

  def _given(self, mask: Mask) -> SplashAttention | BlockwiseAttention | None:
    """`inner`, refused where it cannot compute the steps."""
    if isinstance(self.inner, SplashAttention):
      refuse_gpu("core=@RingAttention() with inner unset")
      if not splash_kernels.is_known(mask, in_parts=True):
        raise UserError(
          f"RingAttention.inner=SplashAttention does not know the mask {mask}: leave inner "
          "unset"
        )
    return self.inner


def _by_blocks(inner: BlockwiseAttention, ring: Ring, request: AttentionRequest) -> jax.Array:
  """[B, rows' length, N, H] of rows filled up to what blocks and devices divide."""
  length = request.query.shape[1]
  chunk = math.ceil(length / (2 * ring.size))
  sizes = min(inner.query_block, chunk), min(inner.key_block, chunk)
  multiple = 2 * ring.size * math.lcm(*sizes)
  rows = both_filled(*request.operands, (multiple, multiple))
  blocks = Blocks(*sizes, request.mask, request.compute_dtype)
  local = per_device(functools.partial(_attend_in_ring, blocks, ring), *SPLIT_ROWS)
  return local(*rows)[:, :length]


def own_pairs(length: int, blocks: Blocks) -> np.ndarray:
  """[P, 2]: the block pairs of a device's `length` queries and its own keys.

  Its tokens are in the order of the row, with a gap between the two chunks.
  """
  return pairs(length, length, blocks)


def met_pairs(length: int, blocks: Blocks, is_later: Any) -> Any:
  """[P, 2]: the block pairs of a device's queries and another device's keys.

  Under a causal mask two of four chunk pairs matter: an earlier device's first chunk precedes
  both of ours; both chunks of a later device precede our second.

  Args:
    length: T.
    is_later: whether the other comes after this one in the ring; a bool, or an array.
  """
  num = np.array([length // blocks.query, length // blocks.key])
  if reach(blocks.mask).ahead != 0:
    return np.argwhere(np.ones(num, bool))
  chunk = np.argwhere(np.ones(num // 2, bool))
  return jnp.concatenate([chunk + num // 2 * [1, 0], chunk + num // 2 * is_later])


def _attend_in_ring(
  blocks: Blocks,
  ring: Ring,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
) -> jax.Array:
  """One device's attention, [B, T, N, H], for its part of the row in plain order."""
  zigzag = functools.partial(ring.zigzag, axis=1)
  query, key, value = zigzag(query), zigzag(key), zigzag(value)
  query_tokens, key_tokens = (
    Tokens(zigzag(tokens.positions), zigzag(tokens.segments), tokens.rows)
    for tokens in (query_tokens, key_tokens)
  )
  heads = by_key_head(query, key.shape[2]), by_head(key), by_head(value)
  mixed = cast(jax.Array, _attend(blocks, ring, *heads, query_tokens, key_tokens))
  return ring.plain(by_token(mixed), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(blocks, ring, query, key, value, query_tokens, key_tokens):
  return _forward(blocks, ring, query, key, value, query_tokens, key_tokens)[0]


def _forward(blocks, ring, query, key, value, query_tokens, key_tokens):
  dtype = dtypes.resolve(blocks.compute_dtype)
  operands = tuple(x.astype(dtype) for x in (query, key, value))
  queries = Side(
    operands[:1], query_tokens, _places(ring, ring.here(), query.shape[3], blocks.query)
  )

  def meet(part: Partial, none: tuple[()], keys: Side, which: Any):
    return attention_blocks.attend(part, queries, keys, blocks, which), none

  keys = Side(operands[1:], key_tokens, None)
  part, _ = _go_round(ring, blocks, meet, Partial.none(query.shape), (), keys)
  mixed, log_sum = part.finish()
  mixed, log_sum = kept(mixed, log_sum, dtype)
  like = tuple(jnp.empty(0, x.dtype) for x in (query, key, value))
  return mixed.astype(jnp.float32), (operands, query_tokens, key_tokens, mixed, log_sum, like)


def _backward(blocks, ring, residuals, gradient):
  operands, query_tokens, key_tokens, mixed, log_sum, like = residuals
  delta = (gradient * mixed).sum(axis=-1)
  gradient = gradient.astype(operands[0].dtype)
  places = _places(ring, ring.here(), gradient.shape[3], blocks.query)
  queries = Side((operands[0], log_sum, gradient, delta), query_tokens, places)

  def meet(dquery: jax.Array, dkeys: tuple[jax.Array, ...], keys: Side, which: Any):
    sums = Gradients(dquery, *dkeys)
    sums = attention_blocks.gradients(sums, queries, keys, blocks, which)
    return sums.query, (sums.key, sums.value)

  zeros = tuple(jnp.zeros(x.shape) for x in operands)
  keys = Side(operands[1:], key_tokens, None)
  dquery, dkeys = _go_round(ring, blocks, meet, zeros[0], zeros[1:], keys)
  sums = (dquery, *dkeys)
  return *(x.astype(y.dtype) for x, y in zip(sums, like, strict=True)), None, None


_attend.defvjp(_forward, _backward)


def _go_round(
  ring: Ring, blocks: Blocks, meet: Callable, stays: Any, travels: Any, keys: Side
) -> tuple[Any, Any]:
  """Calls `meet` with every device's keys in turn, this device's own first.

  Args:
    ring, blocks: the devices, and the sizes of blocks.
    meet: (stays, travels, keys, pairs) -> (stays, travels).
    stays: accumulates results for this device's queries.
    travels: accumulates results for keys; it goes round with them, and returns home.
    keys: this device's keys; their places are filled in here.
  """
  here, length = ring.here(), keys.tokens.segments.shape[1]

  def meet_those_of(source: jax.Array | None, stays: Any, travels: Any, keys: Side):
    if source is None:
      source, which = here, own_pairs(length, blocks)
    else:
      which = met_pairs(length, blocks, source > here)
    keys = keys._replace(places=_places(ring, source, length, blocks.key))
    return meet(stays, travels, keys, which)

  return ring.go_round(meet_those_of, stays, travels, keys)


def _places(ring: Ring, device: jax.Array, length: int, size: int) -> jax.Array:
  """Where in the row each block of `size` tokens begins, for a device with `length` tokens."""
  chunk = length // 2
  within = jnp.arange(0, chunk, size)
  return jnp.concatenate([ring.chunk(device, half) * chunk + within for half in (0, 1)])
