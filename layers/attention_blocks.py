"""Attention over pairs of blocks: one step of a loop a pair; an empty pair is left out.

Which pairs the mask can fill at all follows from its reach and is settled when the program is
traced; which of those hold two tokens of one segment is known only when it runs.

Letters: B batch, K key heads, G query heads per key head, T query length, S key length, H head
dimension, P pairs.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from layers.masks import Mask, Reach, reach
from layers.online_softmax import Gradients, Partial, block_gradients
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How attention is cut, and what is computed of each pair.

  Attributes:
    query, key: tokens of a block.
    mask: who may attend to whom.
    compute_dtype: of the products' operands.
  """

  query: int
  key: int
  mask: Mask
  compute_dtype: str


class Side(NamedTuple):
  """Queries with their coordinates, or keys and values with theirs.

  Attributes:
    arrays: [B, K, G, T, H] each of queries, [B, K, S, H] of keys; the length is last but one,
      or the last where there is no H.
    tokens: [B, T] or [B, S].
  """

  arrays: tuple[jax.Array, ...]
  tokens: Tokens


def pairs(
  num_queries: int, num_keys: int, blocks: Blocks, offset: int | None = 0
) -> np.ndarray:
  """[P, 2] numbers of query block and key block, all that the mask's reach allows.

  Args:
    num_queries, num_keys: in tokens, multiples of the blocks.
    offset: the place of the first query less that of the first key, in one row; None: unknown.
  """
  far = Reach(None, None) if offset is None else reach(blocks.mask)
  queries = np.arange(0, num_queries, blocks.query)[:, None] + (offset or 0)
  keys = np.arange(0, num_keys, blocks.key)[None, :]
  nearest_behind = queries - (keys + blocks.key - 1)
  nearest_ahead = keys - (queries + blocks.query - 1)
  possible = np.ones(np.broadcast_shapes(queries.shape, keys.shape), bool)
  if far.behind is not None:
    possible &= nearest_behind <= far.behind
  if far.ahead is not None:
    possible &= nearest_ahead <= far.ahead
  return np.argwhere(possible)


def attend(
  part: Partial, queries: Side, keys: Side, blocks: Blocks, which: np.ndarray
) -> Partial:
  """`part` [B, K, G, T, ...] after the keys of the pairs `which`.

  Args:
    part: of these queries.
    queries: arrays (query,), scaled.
    keys: arrays (key, value).
    blocks: sizes that divide T and S, mask and dtype.
    which: [P, 2], from `pairs`.
  """
  touching = _touching(queries.tokens, keys.tokens, blocks)

  def step(part: Partial, pair: jax.Array):
    i, j = pair
    (query,), query_tokens = block(queries, i, blocks.query)
    (key, value), key_tokens = block(keys, j, blocks.key)
    old = Partial(*(_folded(cut(x, i, blocks.query, axis=3)) for x in part))

    def absorb(old: Partial) -> Partial:
      allowed = _allowed(query_tokens, key_tokens, blocks.mask, query.shape[2])
      return old.absorb(_folded(query), key, value, allowed, blocks.compute_dtype)

    new = jax.lax.cond(touching[i, j], absorb, lambda old: old, old)
    changed = zip(part, new, strict=True)
    return Partial(*(put(x, _unfolded(y, x.shape[2]), i, axis=3) for x, y in changed)), None

  return jax.lax.scan(step, part, jnp.asarray(which))[0]


def gradients(
  sums: Gradients, queries: Side, keys: Side, blocks: Blocks, which: np.ndarray
) -> Gradients:
  """`sums` with what the pairs `which` add.

  Args:
    sums: query [B, K, G, T, H], key and value [B, K, S, H], float32.
    queries: arrays (query, log_sum, gradient, delta), see `block_gradients`; [B, K, G, T, ...].
    keys: arrays (key, value).
    blocks, which: as for `attend`.
  """
  touching = _touching(queries.tokens, keys.tokens, blocks)

  def step(sums: Gradients, pair: jax.Array):
    i, j = pair
    (query, log_sum, gradient, delta), query_tokens = block(queries, i, blocks.query)
    (key, value), key_tokens = block(keys, j, blocks.key)
    old = Gradients(
      _folded(cut(sums.query, i, blocks.query, axis=3)),
      cut(sums.key, j, blocks.key, axis=2),
      cut(sums.value, j, blocks.key, axis=2),
    )

    def add(old: Gradients) -> Gradients:
      allowed = _allowed(query_tokens, key_tokens, blocks.mask, query.shape[2])
      folded = (_folded(x) for x in (log_sum, gradient, delta))
      more = block_gradients(
        _folded(query), key, value, allowed, *folded, compute_dtype=blocks.compute_dtype
      )
      return Gradients(*(x + y for x, y in zip(old, more, strict=True)))

    new = jax.lax.cond(touching[i, j], add, lambda old: old, old)
    return Gradients(
      put(sums.query, _unfolded(new.query, query.shape[2]), i, axis=3),
      put(sums.key, new.key, j, axis=2),
      put(sums.value, new.value, j, axis=2),
    ), None

  return jax.lax.scan(step, sums, jnp.asarray(which))[0]


def _touching(queries: Tokens, keys: Tokens, blocks: Blocks) -> jax.Array:
  """[query blocks, key blocks]: whether the two may share a segment in some row."""
  first, last = _segment_range(queries, blocks.query)
  key_first, key_last = _segment_range(keys, blocks.key)
  overlap = (first[:, :, None] <= key_last[:, None]) & (key_first[:, None] <= last[:, :, None])
  return overlap.any(axis=0)


def _segment_range(tokens: Tokens, size: int) -> tuple[jax.Array, jax.Array]:
  """[B, blocks] lowest and highest number of a segment in each block."""
  segments = tokens.segments.reshape(tokens.segments.shape[0], -1, size)
  return segments.min(axis=-1), segments.max(axis=-1)


def _allowed(queries: Tokens, keys: Tokens, mask: Mask, num_groups: int) -> jax.Array:
  """[B, 1, G * T, S]: the mask, repeated for the query heads folded into the length."""
  return jnp.tile(mask(queries, keys), (1, num_groups, 1))[:, None]


def block(side: Side, number: Any, size: int) -> Side:
  """The part of a side from token number * size on, `size` tokens long."""
  length_axis = side.arrays[0].ndim - 2
  arrays = tuple(cut(x, number, size, length_axis) for x in side.arrays)
  positions, segments = (
    cut(x, number, size, axis=1) for x in (side.tokens.positions, side.tokens.segments)
  )
  return Side(arrays, side.tokens.replace(positions=positions, segments=segments))


def cut(x: jax.Array, number: Any, size: int, axis: int) -> jax.Array:
  """Slice `number` of those of `size` along the axis."""
  return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def put(x: jax.Array, block: jax.Array, number: Any, axis: int) -> jax.Array:
  """x with `block` in the place of slice `number`."""
  start = number * block.shape[axis]
  return jax.lax.dynamic_update_slice_in_dim(x, block, start, axis)


def _folded(x: jax.Array) -> jax.Array:
  """[B, K, G, T, ...] as [B, K, G * T, ...]: one product serves the heads of a group."""
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _unfolded(x: jax.Array, num_groups: int) -> jax.Array:
  return x.reshape(*x.shape[:2], num_groups, -1, *x.shape[3:])
