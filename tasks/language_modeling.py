"""Next-token prediction over packed rows.

Letters: B batch, T length, V vocabulary.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from layers.cross_entropy import token_losses
from layers.ranges import NonNegativeFloat
from layers.tokens import Tokens
from tasks.objective import ROWS, Batch, Forward, Objective, Outcome
from tasks.weighted_metrics import average, collect


@flax.struct.dataclass
class TokenMetrics(metrics.Collection):
  """Pairs (sum, weight), so that any split of the tokens merges to the same values."""

  loss: metrics.Average  # nats per token
  bits_per_byte: metrics.Average  # bits per byte of the tokens' text
  z_loss: metrics.Average


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
  """sum(weight * nll) / sum(weight) over the global batch.

  Attributes:
    z_loss: coefficient of log(Z)^2, which keeps logits from drifting (Chowdhery et al.,
      2022, https://arxiv.org/abs/2204.02311, section 5). 0 leaves it out; 1e-4 is usual.
    token_bytes: [V] float32, UTF-8 bytes of each id's text; derived from the vocabulary. None:
      bits per byte are not reported.
  """

  z_loss: NonNegativeFloat = 0.0
  token_bytes: np.ndarray | None = None

  def model_inputs(self, batch: Batch) -> tuple[jax.Array, Tokens]:
    """The input ids, int32 [B, T], and the tokens' positions, segments and row numbers."""
    tokens = Tokens(batch["decoder_positions"], batch["decoder_segment_ids"], batch[ROWS])
    return batch["decoder_input_tokens"], tokens

  def totals(self, batch: Batch) -> jax.Array:
    """The sum of the loss weights, float32 scalar."""
    return batch["decoder_loss_weights"].sum()

  def loss(self, forward: Forward, batch: Batch, totals: Any) -> Outcome:
    """This (micro)batch's share of the loss, in nats per token, and its TokenMetrics."""
    answer = forward(*self.model_inputs(batch))
    logits = answer.output  # [B, T, V] float32
    targets = batch["decoder_target_tokens"]
    weights, count = self._weights(batch), self.totals(batch)
    nll, log_z = token_losses(logits, targets)
    nll_sum = (weights * nll).sum()
    z_sum = (weights * jnp.square(log_z)).sum()
    # Weights may well sum to less than 1: see TextData.equal_documents.
    loss = (nll_sum + self.z_loss * z_sum) / jnp.where(totals > 0, totals, 1.0)
    collection = collect(
      TokenMetrics,
      loss=average(nll_sum, count),
      bits_per_byte=average(nll_sum / math.log(2), self._bytes(targets, weights)),
      z_loss=average(self.z_loss * z_sum, count),
    )
    return answer.outcome(loss, collection)

  def empty_metrics(self) -> TokenMetrics:
    """Metrics of no tokens: every sum and weight is 0."""
    none = average(0.0, 0.0)
    return collect(TokenMetrics, loss=none, bits_per_byte=none, z_loss=none)

  def summary(self, collection: TokenMetrics) -> dict[str, Any]:
    """Name -> float32 scalar: loss (nats per token); bits per byte and z-loss if in use."""
    values = collection.compute()
    if self.token_bytes is None:
      del values["bits_per_byte"]
    if self.z_loss == 0.0:
      del values["z_loss"]
    return values

  def _weights(self, batch: Batch) -> jax.Array:
    """The weight of each target in the loss, float32 [B, T]."""
    return batch["decoder_loss_weights"]

  def _bytes(self, targets: jax.Array, weights: jax.Array) -> jax.Array:
    if self.token_bytes is None:
      return jnp.zeros((), jnp.float32)
    return (weights * jnp.asarray(self.token_bytes, jnp.float32)[targets]).sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowMeanNextToken(NextToken):
  """The mean over rows of the mean over a row's learned tokens, as in LWM's code.

  (tux, loss.py, cross_entropy_loss_and_accuracy.) A row with three learned tokens weighs as
  much as a full one; a row with none counts as a loss of 0. Rows of padding do not count. To
  weigh documents instead of rows alike, set TextData.equal_documents.
  """

  def totals(self, batch: Batch) -> jax.Array:
    """The number of rows that are not padding, float32 scalar."""
    return (batch["decoder_segment_ids"] > 0).any(-1).sum().astype(jnp.float32)

  def _weights(self, batch: Batch) -> jax.Array:
    weights = batch["decoder_loss_weights"]
    return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-10)
