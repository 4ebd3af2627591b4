"""Which query may attend to which key, computed from coordinates and never stored.

A mask is called with the coordinates of some queries and some keys, so that a core may ask
block by block. Every mask keeps segments apart. If it sees only a bounded distance, its `reach`
says so, and a core skips the blocks beyond.

Letters: B batch, T query length, S key length.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from layers.errors import UserError
from layers.ranges import PositiveInt
from layers.tokens import Tokens

Mask = Callable[[Tokens, Tokens], jax.Array]


class Reach(NamedTuple):
  """The most tokens that a query may see before (behind) and after itself; None: no limit."""

  behind: int | None
  ahead: int | None


def causal_mask(queries: Tokens, keys: Tokens) -> jax.Array:
  """[B, T, S], True where the key is in the query's segment and not after the query.

  Padding (segment 0) attends only to padding, so that no row of the mask is empty.
  """
  return full_mask(queries, keys) & (_distance(queries, keys) >= 0)


def full_mask(queries: Tokens, keys: Tokens) -> jax.Array:
  """[B, T, S], True where the key is in the query's segment: for encoders."""
  return queries.segments[:, :, None] == keys.segments[:, None, :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingWindow:
  """Causal, and no further back than a window (Beltagy et al., 2020, https://arxiv.org/abs/2004.05150).

  Attributes:
    size: tokens that a query sees, itself included.
  """

  size: PositiveInt

  def __post_init__(self):
    if self.size < 1:
      raise UserError(f"SlidingWindow: size={self.size} is not at least 1")

  def __call__(self, queries: Tokens, keys: Tokens) -> jax.Array:
    """[B, T, S], True where the key is allowed."""
    return causal_mask(queries, keys) & (_distance(queries, keys) < self.size)

  @property
  def reach(self) -> Reach:
    """The window."""
    return Reach(self.size - 1, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockCausal:
  """Causal between blocks of a segment, everything within one (a frame of a video, say).

  Attributes:
    size: tokens of a block; blocks are counted from the segment's first token.
  """

  size: PositiveInt

  def __post_init__(self):
    if self.size < 1:
      raise UserError(f"BlockCausal: size={self.size} is not at least 1")

  def __call__(self, queries: Tokens, keys: Tokens) -> jax.Array:
    """[B, T, S], True where the key is allowed."""
    query_block, key_block = (x.positions // self.size for x in (queries, keys))
    return full_mask(queries, keys) & (query_block[:, :, None] >= key_block[:, None, :])

  @property
  def reach(self) -> Reach:
    """At most the rest of a block ahead."""
    return Reach(None, self.size - 1)


def reach(mask: Mask) -> Reach:
  """How far `mask` sees; without limit if it does not say."""
  if mask is causal_mask:
    return Reach(None, 0)
  return getattr(mask, "reach", Reach(None, None))


def _distance(queries: Tokens, keys: Tokens) -> jax.Array:
  """[B, T, S]: how many tokens the key lies behind the query, within one segment."""
  return queries.positions[:, :, None] - keys.positions[:, None, :]
