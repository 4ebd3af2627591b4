"""Tenant: a classifier of images with batch statistics, and no vocabulary anywhere.

Letters: B batch, K kinds.
"""

import dataclasses
from typing import Any

import fiddle as fdl
import flax.linen as nn
import flax.struct
import jax
import optax
from clu import metrics

from runners import optimizers
from tasks.objective import Objective, Outcome
from tasks.weighted_metrics import average, collect
from tests.runners.toy_run import toy_config
from tests.tenants.digits import Digits, Encoder


class Classifier(Encoder):
  """Images [B, 8, 8] to logits [B, K]."""

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    return nn.Dense(10)(super().__call__(images))


@flax.struct.dataclass
class LabelMetrics(metrics.Collection):
  loss: metrics.Average
  accuracy: metrics.Average


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels(Objective):
  """Cross-entropy; batch statistics are of the whole batch, so that it cannot be cut."""

  splits = False

  def model_inputs(self, batch: Any) -> tuple[jax.Array]:
    return (batch["images"],)

  def totals(self, batch: Any) -> jax.Array:
    return batch["weights"].sum()

  def loss(self, forward: Any, batch: Any, totals: Any) -> Outcome:
    answer, weights = forward(*self.model_inputs(batch)), batch["weights"]
    nll = optax.softmax_cross_entropy_with_integer_labels(answer.output, batch["labels"])
    right = answer.output.argmax(-1) == batch["labels"]
    means = [average((weights * x).sum(), weights.sum()) for x in (nll, right)]
    found = collect(LabelMetrics, loss=means[0], accuracy=means[1])
    return answer.outcome((weights * nll).sum() / totals, found)

  def empty_metrics(self) -> LabelMetrics:
    return collect(LabelMetrics, loss=average(0.0, 0.0), accuracy=average(0.0, 0.0))

  def summary(self, collection: Any) -> dict[str, Any]:
    return collection.compute()


def config(**fields: Any) -> fdl.Config:
  """A Trainer; `fields` replace its own."""
  defaults = {
    "model": fdl.Config(Classifier),
    "objective": fdl.Config(Labels),
    "train_data": fdl.Config(Digits),
    "eval_data": {"validation": fdl.Config(Digits, split="validation")},
    "optimizer": fdl.Config(optimizers.adamw, learning_rate=3e-3),
    "sequence_length": 1,
    "batch_size": 64,
    "num_steps": 20,
  }
  return toy_config(**defaults | fields)
