"""Small models that the tests of the layers share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import Attention
from layers.attention_cores.dense import dense_attention
from layers.block import Block
from layers.decoder import Decoder
from layers.feed_forward import FeedForward
from layers.normalization import LayerNorm
from layers.tokens import Tokens


def pytest_itemcollected(item):
  """Formulas are compared with references to a tolerance here, unless marked `bits`."""
  item.add_marker("plain")


@pytest.fixture(scope="session")
def make_decoder():
  """Builds a decoder of 3 layers, width 32, 67 ids; keywords override its fields."""

  def make(*, num_kv_heads=2, dropout_rate=0.0, core=dense_attention, **fields):
    attention = Attention(
      4, num_kv_heads, core=core, residual_depth=3, dropout_rate=dropout_rate
    )
    block = Block(attention, FeedForward(residual_depth=3), LayerNorm(), dropout_rate)
    defaults = {"num_layers": 3, "model_dim": 32, "vocab_size": 67, "max_positions": 16}
    return Decoder(
      **defaults | fields, block=block, norm=LayerNorm(), dropout_rate=dropout_rate
    )

  return make


@pytest.fixture(scope="session")
def packed():
  """(ids, tokens) [2, 12]: documents of 5 and 7 tokens; of 9, and 3 tokens of padding."""
  segments = np.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3], np.int32)
  positions = np.array([[*range(5), *range(7)], [*range(9), 0, 0, 0]], np.int32)
  ids = jax.random.randint(jax.random.key(7), segments.shape, 0, 67)
  rows = jnp.arange(2, dtype=jnp.int32)
  return ids, Tokens(jnp.asarray(positions), jnp.asarray(segments), rows)
