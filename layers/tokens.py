"""A token's coordinates, which a layer may use besides its features: position, segment, row.

Letters: B batch, T length.
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Tokens:
  """The coordinates of a batch of tokens.

  Attributes:
    positions: [B, T] int32, counted from 0 within each segment.
    segments: [B, T] int32, 1-based number of the document within its row; 0 is padding.
    rows: [B] int32, the row's number in the global batch. Dropout is keyed by it, so that
      neither the mesh nor the split into microbatches changes what is dropped.
  """

  positions: jax.Array
  segments: jax.Array
  rows: jax.Array

  @classmethod
  def unpacked(cls, batch_size: int, length: int) -> "Tokens":
    """Rows of one segment each, positions 0 .. length - 1."""
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch_size, length))
    return cls(positions, jnp.ones_like(positions), jnp.arange(batch_size, dtype=jnp.int32))
