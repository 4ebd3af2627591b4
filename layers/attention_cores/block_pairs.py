"""Attention over pairs of blocks: a loop computes one pair at a step, and skips empty pairs.

Letters: B batch, K key heads, G query heads per key head, T query length, S key length, H head
dimension, P pairs.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from layers.attention_cores.online_softmax import Gradients, Partial, block_gradients
from layers.masks import Mask, reach
from layers.tokens import Tokens

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Blocks:
  """The sizes of the blocks, and the mask and dtype for each pair.

  Attributes:
    query, key: tokens in a block.
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
    arrays: each [B, K, G, T, H] for queries, [B, K, S, H] for keys; or without H.
    tokens: [B, T] or [B, S].
    places: [blocks], where in its row each block begins; None: unknown, so no pair is skipped
      by its distance.
  """

  arrays: tuple[jax.Array, ...]
  tokens: Tokens
  places: jax.Array | np.ndarray | None


def in_reach(queries: Any, keys: Any, blocks: Blocks) -> Any:
  """[query blocks, key blocks]: whether a pair is within the mask's reach.

  Args:
    queries, keys: places of the blocks; both numpy or both jax arrays, like the result.
    blocks: sizes and mask.
  """
  behind, ahead = reach(blocks.mask)
  distance = queries[:, None] - keys[None, :]
  possible = distance == distance
  if behind is not None:
    possible &= distance - (blocks.key - 1) <= behind
  if ahead is not None:
    possible &= -distance - (blocks.query - 1) <= ahead
  return possible


def attend(part: Partial, queries: Side, keys: Side, blocks: Blocks, which: Any) -> Partial:
  """`part` [B, K, G, T, ...] after attending to the keys of the pairs `which`.

  Args:
    part: the queries' attention to earlier keys.
    queries: arrays (query,), scaled.
    keys: arrays (key, value).
    blocks: sizes that divide T and S, mask and dtype.
    which: [P, 2] numbers of a query block and a key block.
  """
  queries, keys, which = _together((queries, keys, jnp.asarray(which)))
  needed = _needed(queries, keys, blocks)

  def step(part: Partial, pair: jax.Array):
    i, j = pair
    (query,), query_tokens = _block(queries, i, blocks.query)
    (key, value), key_tokens = _block(keys, j, blocks.key)
    old = Partial(*(_folded(_cut(x, i, blocks.query, axis=3)) for x in part))

    def absorb(old: Partial) -> Partial:
      allowed = _allowed(query_tokens, key_tokens, blocks.mask, query.shape[2])
      return old.absorb(_folded(query), key, value, allowed, blocks.compute_dtype)

    new = jax.lax.cond(needed[i, j], absorb, lambda old: old, old)
    changed = zip(part, new, strict=True)
    return Partial(*(_put(x, _unfolded(y, x.shape[2]), i, axis=3) for x, y in changed)), None

  return jax.lax.scan(step, part, which)[0]


def gradients(
  sums: Gradients, queries: Side, keys: Side, blocks: Blocks, which: Any
) -> Gradients:
  """`sums` plus the gradients from the pairs `which`.

  Args:
    sums: query [B, K, G, T, H], key and value [B, K, S, H], float32.
    queries: arrays (query, log_sum, gradient, delta), see `block_gradients`; [B, K, G, T, ...].
    keys: arrays (key, value).
    blocks, which: as for `attend`.
  """
  queries, keys, which = _together((queries, keys, jnp.asarray(which)))
  needed = _needed(queries, keys, blocks)

  def step(sums: Gradients, pair: jax.Array):
    i, j = pair
    (query, log_sum, gradient, delta), query_tokens = _block(queries, i, blocks.query)
    (key, value), key_tokens = _block(keys, j, blocks.key)
    old = Gradients(
      _folded(_cut(sums.query, i, blocks.query, axis=3)),
      _cut(sums.key, j, blocks.key, axis=2),
      _cut(sums.value, j, blocks.key, axis=2),
    )

    def add(old: Gradients) -> Gradients:
      allowed = _allowed(query_tokens, key_tokens, blocks.mask, query.shape[2])
      folded = (_folded(x) for x in (log_sum, gradient, delta))
      more = block_gradients(
        _folded(query), key, value, allowed, *folded, compute_dtype=blocks.compute_dtype
      )
      return Gradients(*(x + y for x, y in zip(old, more, strict=True)))

    new = jax.lax.cond(needed[i, j], add, lambda old: old, old)
    return Gradients(
      _put(sums.query, _unfolded(new.query, query.shape[2]), i, axis=3),
      _put(sums.key, new.key, j, axis=2),
      _put(sums.value, new.value, j, axis=2),
    ), None

  return jax.lax.scan(step, sums, which)[0]


def _together(tree: Tree) -> Tree:
  """The tree behind an optimization barrier.

  Coordinates and pairs are the same in every layer, so without it XLA would hoist the masks of
  all pairs, that is of whole rows, out of the scan over layers and keep them.
  """
  return jax.lax.optimization_barrier(tree)


def _needed(queries: Side, keys: Side, blocks: Blocks) -> jax.Array:
  """[query blocks, key blocks]: whether any row may have allowed tokens in a pair."""
  first, last = _segment_range(queries.tokens, blocks.query)
  key_first, key_last = _segment_range(keys.tokens, blocks.key)
  overlap = (first[:, :, None] <= key_last[:, None]) & (key_first[:, None] <= last[:, :, None])
  needed = overlap.any(axis=0)
  if queries.places is None or keys.places is None:
    return needed
  return needed & in_reach(queries.places, keys.places, blocks)


def _segment_range(tokens: Tokens, size: int) -> tuple[jax.Array, jax.Array]:
  """[B, blocks] each: the lowest and highest segment number in a block."""
  segments = tokens.segments.reshape(tokens.segments.shape[0], -1, size)
  return segments.min(axis=-1), segments.max(axis=-1)


def _allowed(queries: Tokens, keys: Tokens, mask: Mask, num_groups: int) -> jax.Array:
  """[B, 1, G * T, S]: the mask, repeated for the query heads folded into the length."""
  return jnp.tile(mask(queries, keys), (1, num_groups, 1))[:, None]


def _block(side: Side, number: jax.Array, size: int) -> tuple[tuple[jax.Array, ...], Tokens]:
  length_axis = 3 if side.arrays[0].ndim == 5 else 2
  positions, segments = (
    _cut(x, number, size, axis=1) for x in (side.tokens.positions, side.tokens.segments)
  )
  tokens = Tokens(positions, segments, side.tokens.rows)
  return tuple(_cut(x, number, size, length_axis) for x in side.arrays), tokens


def _cut(x: jax.Array, number: jax.Array, size: int, axis: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def _put(x: jax.Array, block: jax.Array, number: jax.Array, axis: int) -> jax.Array:
  start = number * block.shape[axis]
  return jax.lax.dynamic_update_slice_in_dim(x, block, start, axis)


def _folded(x: jax.Array) -> jax.Array:
  """[B, K, G, T, ...] as [B, K, G * T, ...]: one product serves the heads of a group."""
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _unfolded(x: jax.Array, num_groups: int) -> jax.Array:
  return x.reshape(*x.shape[:2], num_groups, -1, *x.shape[3:])
