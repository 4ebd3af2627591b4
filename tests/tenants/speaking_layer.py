"""Tenant: a layer in a scanned, rematerialised stack that reports a loss and a statistic.

A feed-forward of four soft experts. The router's logits are kept small by the loss of ST-MoE
(https://arxiv.org/abs/2202.08906, section 3.1), and how sure it is, is logged for each layer.

Letters: B batch, T length, D model dimension, E experts.
"""

from typing import Any

import fiddle as fdl
import flax.linen as nn
import jax
import jax.numpy as jnp

from layers.reports import report
from layers.sharding import partitioned_init
from layers.tokens import Tokens
from tasks.auxiliary_losses import WithReports
from tasks.language_modeling import NextToken
from tests.tenants.stdlib_text import text_config

EXPERTS = 4  # E


class SoftExperts(nn.Module):
  """Every token through all experts, each weighted by the router."""

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    D, normal = x.shape[-1], nn.initializers.normal(0.02)
    router = self.param("router", partitioned_init(normal, "embed", "experts"), (D, EXPERTS))
    split = partitioned_init(normal, "experts", "embed", "mlp")
    experts = self.param("experts", split, (EXPERTS, D, D))
    logits = x @ router  # [B, T, E]
    probabilities = jax.nn.softmax(logits)
    real = tokens.segments > 0
    total = lambda of_token: jnp.where(real, of_token, 0.0).sum()
    report(self, "router_z", total(jax.nn.logsumexp(logits, -1) ** 2), real.sum())
    report(self, "confidence", total(probabilities.max(-1)), real.sum(), per_layer=True)
    outputs = nn.gelu(jnp.einsum("BTD,EDF->BTEF", x, experts))
    return jnp.einsum("BTE,BTEF->BTF", probabilities, outputs)


def config(**fields: Any) -> fdl.Config:
  """A Trainer; `fields` replace its own."""
  weights = {"router_z": 0.1}
  objective = fdl.Config(WithReports, objective=fdl.Config(NextToken), weights=weights)
  trainer = text_config(objective=objective, **fields)
  trainer.model.block.feed_forward = fdl.Config(SoftExperts)
  trainer.model.remat = "full"
  return trainer
