"""Which query may attend to which key, computed from coordinates and never stored.

Letters: B batch, T query length, S key length.
"""

import jax

from layers.tokens import Tokens


def causal_mask(queries: Tokens, keys: Tokens) -> jax.Array:
  """[B, T, S], True where the key is of the query's segment and not after it.

  Padding (segment 0) attends to padding alone, so that no row of the mask is empty.
  """
  same_segment = queries.segments[:, :, None] == keys.segments[:, None, :]
  not_after = queries.positions[:, :, None] >= keys.positions[:, None, :]
  return same_segment & not_after


def full_mask(queries: Tokens, keys: Tokens) -> jax.Array:
  """[B, T, S], True where the key is of the query's segment: for encoders."""
  return queries.segments[:, :, None] == keys.segments[:, None, :]
