"""Draws the next token from its logits.

Letters: B batch, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp

from layers.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How a token is drawn; the default is softmax(logits) itself.

  Attributes:
    temperature: divides the logits; 0 takes the largest, and the first among equals.
    top_k: only the k largest logits count; None: all.
    top_p: only the fewest of these tokens with at least this probability together count
      (nucleus sampling, Holtzman et al., 2020, https://arxiv.org/abs/1904.09751); None: all.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  def __post_init__(self):
    if not 0 <= self.temperature < float("inf"):
      raise UserError(f"temperature={self.temperature} must be a number from 0 (greedy) on")
    if self.top_k is not None and self.top_k < 1:
      raise UserError(f"top_k={self.top_k} must be at least 1")
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise UserError(f"top_p={self.top_p} must be more than 0 and at most 1")

  def __call__(self, logits: jax.Array, keys: jax.Array) -> jax.Array:
    """logits [B, V] and a random key for each row [B] give ids [B] int32."""
    if self.temperature == 0.0:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / self.temperature
    draw = jax.vmap(jax.random.categorical)
    if self.top_k is None and self.top_p is None:
      return draw(keys, logits).astype(jnp.int32)
    # After sorting, each rule keeps a prefix; among equal logits the first comes first, as in
    # greedy decoding.
    largest, ids = jax.lax.top_k(logits, min(self.top_k or logits.shape[-1], logits.shape[-1]))
    if self.top_p is not None:
      probabilities = jax.nn.softmax(largest)
      before = jnp.cumsum(probabilities, axis=-1) - probabilities
      kept = (before < self.top_p).at[:, 0].set(True)
      largest = jnp.where(kept, largest, -jnp.inf)
    rank = draw(keys, largest)
    return jnp.take_along_axis(ids, rank[:, None], axis=-1)[:, 0].astype(jnp.int32)
