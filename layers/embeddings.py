"""Token ids to features and features to logits.

Letters: B batch, T length, D model dimension, V vocabulary, P positions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import dtypes, initializers
from layers.dtypes import DType
from layers.ranges import NonNegativeFloat, PositiveInt
from layers.sharding import constrain, partitioned_init


class TokenEmbedding(nn.Module):
  """A table of V rows, padded with zero rows up to `padded_vocab_size`.

  Attributes:
    vocab_size: V.
    model_dim: D.
    padded_vocab_size: rows of the table, for a mesh that does not divide V; None means V. The
      initial values of the first V rows do not depend on it.
    compute_dtype, param_dtype: see Projection.
  """

  vocab_size: PositiveInt
  model_dim: PositiveInt
  padded_vocab_size: PositiveInt | None = None
  init_stddev: NonNegativeFloat = 0.02
  compute_dtype: DType = DType("float32")
  param_dtype: DType = DType("float32")

  def setup(self):
    self.table = self.param("table", partitioned_init(self._init, "vocab", "embed"))

  def _init(self, key: jax.Array) -> jax.Array:
    shape = (self.vocab_size, self.model_dim)
    dtype = dtypes.resolve(self.param_dtype)
    rows = initializers.normal(self.init_stddev)(key, shape, dtype)
    return jnp.pad(rows, ((0, self._num_rows() - self.vocab_size), (0, 0)))

  def _num_rows(self) -> int:
    return self.padded_vocab_size or self.vocab_size

  def __call__(self, ids: jax.Array) -> jax.Array:
    """ids [B, T] int32 gives [B, T, D] in param_dtype."""
    # In a table with split features, rows would have to be gathered after the look-up.
    return jnp.take(constrain(self.table, "vocab", "activation_embed"), ids, axis=0)

  def head(self) -> jax.Array:
    """[D, V]: the transposed table, as the matrix of a tied head."""
    return self.table.T


class LearnedPositions(nn.Module):
  """A table of P positions, counted within each segment (Radford et al., 2019)."""

  max_positions: PositiveInt
  model_dim: PositiveInt
  init_stddev: NonNegativeFloat = 0.02
  param_dtype: DType = DType("float32")

  @nn.compact
  def __call__(self, positions: jax.Array) -> jax.Array:
    """positions [B, T] int32, below P, gives [B, T, D] in param_dtype."""
    init = partitioned_init(initializers.normal(self.init_stddev), "position", "embed")
    shape = (self.max_positions, self.model_dim)
    table = self.param("table", init, shape, dtypes.resolve(self.param_dtype))
    return jnp.take(constrain(table, "position", "activation_embed"), positions, axis=0)


class _Matrix(nn.Module):
  """The matrix [D, V] of an untied head."""

  kernel_init: nn.initializers.Initializer
  num_columns: int
  param_dtype: DType

  @nn.compact
  def __call__(self, model_dim: int) -> jax.Array:
    init = partitioned_init(self.kernel_init, "embed", "vocab")
    shape = (model_dim, self.num_columns)
    return self.param("kernel", init, shape, dtypes.resolve(self.param_dtype))


class OutputHead(nn.Module):
  """The matrix of an untied head.

  Attributes:
    vocab_size, padded_vocab_size: see TokenEmbedding; the columns of the padding are zero.
    param_dtype: see Projection.
  """

  vocab_size: PositiveInt
  padded_vocab_size: PositiveInt | None = None
  init_stddev: NonNegativeFloat = 0.02
  param_dtype: DType = DType("float32")

  def setup(self):
    self.projection = _Matrix(
      self._init, self.padded_vocab_size or self.vocab_size, self.param_dtype
    )

  def __call__(self, model_dim: int) -> jax.Array:
    """The matrix [D, V], a column for each id."""
    return self.projection(model_dim)

  def _init(self, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """[D, V'], where the first V columns do not depend on V'."""
    real = initializers.normal(self.init_stddev)(key, (shape[0], self.vocab_size), dtype)
    return jnp.pad(real, ((0, 0), (0, shape[1] - self.vocab_size)))


def mask_padding(logits: jax.Array, vocab_size: int) -> jax.Array:
  """logits [B, T, V'], with the lowest float for ids from `vocab_size` on."""
  logits = constrain(logits, "batch", "length", "activation_vocab")
  if logits.shape[-1] == vocab_size:
    return logits
  known = jnp.arange(logits.shape[-1]) < vocab_size
  return jnp.where(known, logits, jnp.finfo(logits.dtype).min)
