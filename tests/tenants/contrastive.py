"""Tenant: a contrastive loss over the global batch, which no microbatch can compute alone.

The upper half of a digit is to find its lower half among those of all others (InfoNCE,
https://arxiv.org/abs/1807.03748).

Letters: B batch, D width.
"""

import dataclasses
from typing import Any

import fiddle as fdl
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tasks.objective import Outcome
from tasks.weighted_metrics import average, collect
from tests.tenants import image_classifier
from tests.tenants.digits import Encoder
from tests.tenants.image_classifier import LabelMetrics, Labels


class TwoTowers(nn.Module):
  """One encoder for each half of an image: [B, 8, 8] to two unit vectors [B, D]."""

  scan_layers: bool = True
  remat: str = "full"

  def setup(self):
    towers = (Encoder(scan_layers=self.scan_layers, remat=self.remat) for _ in range(2))
    self.upper, self.lower = towers

  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    vectors = self.upper(images[:, :4]), self.lower(images[:, 4:])
    return tuple(x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-6) for x in vectors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves(Labels):
  """Cross-entropy of the right half among all in the batch; padding is nobody's other half."""

  def loss(self, forward: Any, batch: Any, totals: Any) -> Outcome:
    answer, weights = forward(*self.model_inputs(batch)), batch["weights"]
    upper, lower = answer.output
    scores = jnp.where(weights > 0, upper @ lower.T / 0.1, -1e9)  # [B, B]
    own = forward.rows
    nll = optax.softmax_cross_entropy_with_integer_labels(scores, own)
    right = scores.argmax(-1) == own
    means = [average((weights * x).sum(), weights.sum()) for x in (nll, right)]
    found = collect(LabelMetrics, loss=means[0], accuracy=means[1])
    return answer.outcome((weights * nll).sum() / totals, found)


def config(**fields: Any) -> fdl.Config:
  """A Trainer; `fields` replace its own."""
  defaults = {"model": fdl.Config(TwoTowers), "objective": fdl.Config(Halves)}
  return image_classifier.config(**defaults | fields)
