"""One pre-norm residual block (Radford et al., 2019, section 2.3).

Letters: B batch, T length, D model dimension.
"""

import flax.linen as nn
import jax

from layers.dropout import Dropout
from layers.ranges import FractionBelowOne
from layers.rematerialization import named
from layers.sharding import constrain
from layers.tokens import Tokens


class Block(nn.Module):
  """x + attention(norm(x)), then x + feed_forward(norm(x)).

  Attributes:
    attention, feed_forward: modules called as (x, tokens).
    norm: a template; attention and feed-forward each get their own copy.
    dropout_rate: dropout on the output of either half.
  """

  attention: nn.Module
  feed_forward: nn.Module
  norm: nn.Module
  dropout_rate: FractionBelowOne = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    """x [B, T, D] gives [B, T, D]."""
    x = named(x, "block_input")
    x = self._add(x, "attention", self.attention, tokens)
    return self._add(x, "feed_forward", self.feed_forward, tokens)

  def _add(self, x: jax.Array, name: str, half: nn.Module, tokens: Tokens) -> jax.Array:
    # Calling the field `norm` twice would silently share its weights; a copy has its own.
    normed = named(self.norm.copy(name=f"{name}_norm")(x), f"{name}_norm")
    # Between the products the stream may be split further; the products read all its tokens.
    normed = constrain(normed, "batch", "length", "activation_embed")
    # Constrained before the stream splits it further, so that the gradient is whole again where
    # a product folds rows.
    added = constrain(half(normed, tokens), "batch", "length", "activation_embed")
    added = named(added, f"{name}_out")
    added = Dropout(self.dropout_rate, name=f"{name}_dropout")(added, tokens.rows)
    return constrain(x + added, "batch", "residual_length", "activation_embed")
