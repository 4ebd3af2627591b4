"""A whole run without tokens: random images with labels, and a plain MLP that tells them apart.

Letters: B rows, H height and width of an image, K kinds.
"""

import dataclasses
from typing import Any

import fiddle as fdl
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics

from input_pipelines.batches import Data
from input_pipelines.loader import RowBatches
from tasks.objective import Forward, Outcome
from tasks.weighted_metrics import average, collect
from tests.runners.toy_run import toy_config

SIZE, KINDS = 4, 3  # H, K


class ImageRows:
  """`images` uint8 [B, H, H, 1], `labels` int32 [B], `weights` float32 [B]; 0 on padding."""

  def __init__(self, num_rows: int, seed: int):
    self.num_rows = num_rows
    generator = np.random.default_rng(seed)
    self._labels = generator.integers(0, KINDS, num_rows).astype(np.int32)
    self._images = generator.integers(0, 256, (num_rows, SIZE, SIZE, 1)).astype(np.uint8)

  def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    weights = (indices >= 0).astype(np.float32)  # NO_ROW is -1
    return {
      "images": self._images[indices],
      "labels": self._labels[indices],
      "weights": weights,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyImages(Data):
  """`num_images` random images, other ones in each split."""

  units = "images"
  split: str = "train"
  num_images: int = 20

  def example(self, sequence_length: int) -> dict[str, np.ndarray]:
    return ImageRows(1, 0).rows(np.array([-1]))

  def open(self, *, sequence_length: int, cache_dir: str, **order: Any) -> RowBatches:
    rows = ImageRows(self.num_images, seed=len(self.split))
    return RowBatches(rows, content=f"images-{self.split}-{self.num_images}", **order)


class Classifier(nn.Module):
  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """[B, H, H, 1] uint8 gives logits [B, K]."""
    x = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255
    return nn.Dense(KINDS)(nn.relu(nn.Dense(16)(x)))


@flax.struct.dataclass
class ImageMetrics(metrics.Collection):
  loss: metrics.Average
  accuracy: metrics.Average


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
  """Cross-entropy of the labels (the protocol Objective)."""

  def model_inputs(self, batch: Any) -> tuple[jax.Array]:
    return (batch["images"],)

  def totals(self, batch: Any) -> jax.Array:
    return batch["weights"].sum()

  def loss(self, forward: Forward, batch: Any, totals: Any) -> Outcome:
    answer, weights = forward(*self.model_inputs(batch)), batch["weights"]
    logits = answer.output
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    right = (logits.argmax(-1) == batch["labels"]).astype(jnp.float32)
    loss, count = (weights * nll).sum(), weights.sum()
    found = collect(
      ImageMetrics,
      loss=average(loss, count),
      accuracy=average((weights * right).sum(), count),
    )
    return answer.outcome(loss / totals, found)

  def empty_metrics(self) -> ImageMetrics:
    return collect(ImageMetrics, loss=average(0.0, 0.0), accuracy=average(0.0, 0.0))

  def summary(self, collection: ImageMetrics) -> dict[str, Any]:
    return collection.compute()


def image_config(**fields: Any) -> fdl.Config:
  """A Trainer: 8 images a step; `fields` replace what is here and in `toy_config`."""
  defaults = {
    "model": fdl.Config(Classifier),
    "objective": fdl.Config(Labels),
    "train_data": fdl.Config(ToyImages),
    "eval_data": {"validation": fdl.Config(ToyImages, split="validation")},
    "sequence_length": 1,
    "num_steps": 2,
  }
  return toy_config(**defaults | fields)
