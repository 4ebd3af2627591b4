"""Attention over rows that are split over devices (Liu et al., 2023, https://arxiv.org/abs/2310.01889).

Each device keeps its queries; keys and values travel round the ring, and each device attends
to those that pass while the next ones are on their way. In the backward pass their gradients
travel with them, and weights are computed again: nothing of a step of the ring is kept.

Letters: B batch, K key heads, G query heads per key head, T length on a device, H head
dimension, R devices of the ring, C = T / 2 chunk.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from layers import attention_blocks, dtypes
from layers.attention_blocks import Blocks, Side, block, cut, put
from layers.attention_layout import (
  KEY_FILL,
  QUERY_FILL,
  SPLIT_ROWS,
  by_head,
  by_key_head,
  by_token,
  filled,
)
from layers.blockwise_attention import BlockwiseAttention, refuse_dropout
from layers.dropout import Drop
from layers.errors import UserError
from layers.masks import Mask, causal_mask, reach
from layers.online_softmax import Gradients, Partial
from layers.ring import Ring
from layers.sharding import axis_devices, per_device
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingAttention:
  """Exact attention over a row whose tokens lie along a mesh axis; without one, blockwise.

  The ring is whatever the rule for "length" names, of any size. A length that does not divide
  is filled up. Within a device, blocks are those of `BlockwiseAttention`.

  Attributes:
    query_block, key_block: tokens; lowered to the chunk where that is shorter.
  """

  query_block: int = 512
  key_block: int = 512

  def __call__(
    self,
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
    """See `AttentionCore`. Tokens of a segment stand in the order of their positions.

    Raises:
      UserError: dropout of the attention weights; keys of other tokens than the queries.
    """
    refuse_dropout(drop_weights, "RingAttention")
    ring = Ring(*axis_devices("length"))
    if ring.size == 1:
      alone = BlockwiseAttention(query_block=self.query_block, key_block=self.key_block)
      return alone(
        query, key, value, query_tokens, key_tokens, mask=mask, compute_dtype=compute_dtype
      )
    if query_tokens is not key_tokens:
      raise UserError("RingAttention: queries and keys are not the same tokens")
    length = query.shape[1]
    chunk = math.ceil(length / (2 * ring.size))
    blocks = Blocks(
      min(self.query_block, chunk), min(self.key_block, chunk), mask, compute_dtype
    )
    multiple = 2 * ring.size * math.lcm(blocks.query, blocks.key)
    query, query_tokens = filled(query, query_tokens, multiple, QUERY_FILL)
    value, _ = filled(value, key_tokens, multiple, KEY_FILL)
    key, key_tokens = filled(key, key_tokens, multiple, KEY_FILL)
    local = per_device(functools.partial(_attend_in_ring, blocks, ring), *SPLIT_ROWS)
    return local(query, key, value, query_tokens, key_tokens)[:, :length]


class Visit(NamedTuple):
  """One half of a device's queries meets one half of some device's keys.

  Attributes:
    query_half, key_half: 0 or 1, on a device perhaps an array.
    same: they are the same chunk.
  """

  query_half: Any
  key_half: Any
  same: bool = False


def own_visits(mask: Mask) -> list[Visit]:
  """What the queries of a device have to do with its own keys."""
  diagonal = [Visit(0, 0, same=True), Visit(1, 1, same=True), Visit(1, 0)]
  return diagonal if reach(mask).ahead == 0 else [*diagonal, Visit(0, 1)]


def visits(mask: Mask, here: Any, source: Any) -> list[Visit]:
  """What the queries of device `here` have to do with the keys of another; numbers or arrays.

  Under a causal mask it is two chunks out of four, whichever the devices are: of one before
  this the first chunk is before both of ours, of one after it both are before our second.
  """
  if reach(mask).ahead != 0:
    return [Visit(i, j) for i in (0, 1) for j in (0, 1)]
  half = jnp.int32(source > here)
  return [Visit(1, 0), Visit(half, half)]


def _attend_in_ring(
  blocks: Blocks,
  ring: Ring,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
) -> jax.Array:
  """What one device computes, [B, T, N, H] of its own part of the row in plain order."""
  zigzag = functools.partial(ring.zigzag, axis=1)
  query, key, value = zigzag(query), zigzag(key), zigzag(value)
  query_tokens, key_tokens = (
    tokens.replace(positions=zigzag(tokens.positions), segments=zigzag(tokens.segments))
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
  queries, keys = Side(operands[:1], query_tokens), Side(operands[1:], key_tokens)
  size = query.shape[3] // 2

  def meet(part: Partial, none: None, keys: Side, visit: Visit):
    old = Partial(*(cut(x, visit.query_half, size, axis=3) for x in part))
    own, theirs = block(queries, visit.query_half, size), block(keys, visit.key_half, size)
    new = attention_blocks.attend(old, own, theirs, blocks, _pairs(size, blocks, visit))
    changed = zip(part, new, strict=True)
    return Partial(*(put(x, y, visit.query_half, axis=3) for x, y in changed)), none

  part, _ = _go_round(ring, blocks.mask, size, meet, Partial.none(query.shape), None, keys)
  mixed, log_sum = part.finish()
  like = tuple(jnp.empty(0, x.dtype) for x in (query, key, value))
  return mixed, (operands, query_tokens, key_tokens, mixed, log_sum, like)


def _backward(blocks, ring, residuals, gradient):
  operands, query_tokens, key_tokens, mixed, log_sum, like = residuals
  delta = (gradient * mixed).sum(axis=-1)
  gradient = gradient.astype(operands[0].dtype)
  queries = Side((operands[0], log_sum, gradient, delta), query_tokens)
  size = gradient.shape[3] // 2

  def meet(dquery: jax.Array, dkeys: tuple[jax.Array, ...], keys: Side, visit: Visit):
    halves = (visit.query_half, 3), (visit.key_half, 2), (visit.key_half, 2)
    sums = tuple(zip((dquery, *dkeys), halves, strict=True))
    old = Gradients(*(cut(x, half, size, axis) for x, (half, axis) in sums))
    own, theirs = block(queries, visit.query_half, size), block(keys, visit.key_half, size)
    new = attention_blocks.gradients(old, own, theirs, blocks, _pairs(size, blocks, visit))
    changed = zip(sums, new, strict=True)
    dquery, *dkeys = (put(x, y, half, axis) for (x, (half, axis)), y in changed)
    return dquery, tuple(dkeys)

  zeros = tuple(jnp.zeros(x.shape) for x in operands)
  keys = Side(operands[1:], key_tokens)
  dquery, dkeys = _go_round(ring, blocks.mask, size, meet, zeros[0], zeros[1:], keys)
  sums = (dquery, *dkeys)
  return *(x.astype(y.dtype) for x, y in zip(sums, like, strict=True)), None, None


_attend.defvjp(_forward, _backward)


def _pairs(size: int, blocks: Blocks, visit: Visit) -> np.ndarray:
  return attention_blocks.pairs(size, size, blocks, 0 if visit.same else None)


def _go_round(
  ring: Ring, mask: Mask, size: int, meet: Callable, stays: Any, travels: Any, keys: Side
) -> tuple[Any, Any]:
  """`meet` with the keys of every device of the ring, this one's own first.

  Args:
    size: C, tokens of a chunk.
    meet: (stays, travels, keys, visit) -> (stays, travels).
    stays: what is gathered for this device's queries.
    travels: what is gathered for keys; it goes round with them, and comes home.
  """
  here = ring.here()

  def meet_all(stays: Any, travels: Any, keys: Side, source: jax.Array):
    for visit in visits(mask, here, source):
      distance = size * (
        ring.chunk(here, visit.query_half) - ring.chunk(source, visit.key_half)
      )
      stays, travels = _if_in_reach(mask, distance, size, meet, stays, travels, keys, visit)
    return stays, ring.passed_on(travels)

  def step(carry: Any, source: jax.Array):
    stays, travels, keys = carry
    arriving = ring.passed_on(keys)  # nothing below needs it: it is on its way meanwhile
    return (*meet_all(stays, travels, keys, source), arriving), None

  arriving = ring.passed_on(keys)
  for visit in own_visits(mask):
    stays, travels = meet(stays, travels, keys, visit)
  sources = (here - jnp.arange(1, ring.size)) % ring.size
  carry = stays, ring.passed_on(travels), arriving
  carry, _ = jax.lax.scan(step, carry, sources[:-1])
  return meet_all(*carry, sources[-1])  # these keys are passed on to nobody


def _if_in_reach(
  mask: Mask, distance: jax.Array, size: int, meet: Callable, stays, travels, keys, visit
):
  """`meet`, unless the mask sees no key of a chunk that begins `distance` before the queries'."""
  behind, ahead = reach(mask)
  if behind is None and ahead in (None, 0):
    return meet(stays, travels, keys, visit)
  sees = jnp.bool_(True)
  if behind is not None:
    sees &= distance - (size - 1) <= behind
  if ahead is not None:
    sees &= -distance - (size - 1) <= ahead
  return jax.lax.cond(
    sees, lambda state: meet(*state, keys, visit), lambda state: state, (stays, travels)
  )
