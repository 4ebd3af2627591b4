"""Layouts of heads for attention, in memory and on a mesh.

Letters: B batch, T length, N query heads, K key heads, G = N / K, H head dimension.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from layers.tokens import Tokens


class Layout(NamedTuple):
  """Logical axes of an attention core's arguments and result.

  Attributes:
    inputs: query, key, value, query tokens, key tokens.
    output: [B, T, N, H].
  """

  inputs: tuple[Any, ...]
  output: tuple[str | None, ...]


def _layout(length: str | None) -> Layout:
  heads = ("batch", length, "activation_heads", None)
  coordinates: Any = Tokens
  tokens = coordinates(("batch", length), ("batch", length), ("batch",))
  return Layout((heads, heads, heads, tokens, tokens), heads)


WHOLE_ROWS = _layout(None)
SPLIT_ROWS = _layout("length")

# Segment numbers of filler tokens: they differ from each other and from every segment.
_QUERY_FILL, _KEY_FILL = -1, -2


def by_head(x: jax.Array) -> jax.Array:
  """[B, T, K, H] as [B, K, T, H]."""
  return x.transpose(0, 2, 1, 3)


def by_key_head(query: jax.Array, num_kv_heads: int) -> jax.Array:
  """[B, T, N, H], scaled by 1 / sqrt(H), as [B, K, G, T, H]; head n reads key head n // G."""
  B, T, N, H = query.shape
  query = (query * H**-0.5).reshape(B, T, num_kv_heads, N // num_kv_heads, H)
  return query.transpose(0, 2, 3, 1, 4)


def by_token(mixed: jax.Array) -> jax.Array:
  """[B, K, G, T, H] as [B, T, N, H]."""
  B, K, G, T, H = mixed.shape
  return mixed.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)


def both_filled(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
  multiples: tuple[int, int],
) -> tuple[jax.Array, jax.Array, jax.Array, Tokens, Tokens]:
  """Queries and keys padded to a multiple each, with tokens that no token attends to."""
  query, query_tokens = _filled(query, query_tokens, multiples[0], _QUERY_FILL)
  key, _ = _filled(key, key_tokens, multiples[1], _KEY_FILL)
  value, key_tokens = _filled(value, key_tokens, multiples[1], _KEY_FILL)
  return query, key, value, query_tokens, key_tokens


def rows_filled(
  query: jax.Array, key: jax.Array, value: jax.Array, tokens: Tokens, multiple: int
) -> tuple[jax.Array, jax.Array, jax.Array, Tokens]:
  """Pads rows for self-attention with tokens that attend only to one another."""
  key, value = (_filled(x, tokens, multiple, _QUERY_FILL)[0] for x in (key, value))
  query, tokens = _filled(query, tokens, multiple, _QUERY_FILL)
  return query, key, value, tokens


def _filled(
  x: jax.Array, tokens: Tokens, multiple: int, segment: int
) -> tuple[jax.Array, Tokens]:
  """x [B, T, ...] and its tokens, padded to a multiple with tokens of `segment`."""
  missing = -x.shape[1] % multiple
  if missing == 0:
    return x, tokens
  pad = lambda x, value: jnp.pad(
    x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)), constant_values=value
  )
  positions, segments = pad(tokens.positions, 0), pad(tokens.segments, segment)
  return pad(x, 0), Tokens(positions, segments, tokens.rows)
