"""Real images that a package ships: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
import sklearn.datasets

from input_pipelines.batches import Data
from input_pipelines.loader import RowBatches
from layers.stack import Stack


class DigitRows:
  """`images` [B, 8, 8] from 0 to 1, `labels` int32 [B], `weights` [B]: 0 on padding."""

  def __init__(self, held_out: bool):
    digits: Any = sklearn.datasets.load_digits()
    chosen = (np.arange(len(digits.target)) % 10 == 0) == held_out
    self._images = (digits.images[chosen] / 16).astype(np.float32)
    self._labels = digits.target[chosen].astype(np.int32)
    self.num_rows = len(self._labels)

  def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    images, labels = self._images[indices], self._labels[indices]
    return {"images": images, "labels": labels, "weights": (indices >= 0).astype(np.float32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Data):
  """Every tenth digit is held out."""

  units: ClassVar[str] = "images"
  split: str = "train"

  def vocabulary(self) -> None:
    return None

  def example(self, sequence_length: int) -> dict[str, np.ndarray]:
    return DigitRows(True).rows(np.array([-1]))

  def open(self, *, sequence_length: int, cache_dir: str, **order: Any) -> RowBatches:
    rows = DigitRows(self.split == "validation")
    return RowBatches(rows, content=f"digits-{self.split}", **order)


class NormedBlock(nn.Module):
  """x + relu(norm(dense(x))), normalised over the global batch while it learns."""

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Any = None) -> jax.Array:
    frozen = not self.is_mutable_collection("batch_stats")  # as it is in evaluation
    y = nn.Dense(x.shape[-1])(x)
    return x + nn.relu(nn.BatchNorm(use_running_average=frozen, momentum=0.9)(y))


class Encoder(nn.Module):
  """Pixels [B, ...] to vectors [B, width], through a stack of blocks."""

  width: int = 16
  scan_layers: bool = True
  remat: str = "full"
  block: type[nn.Module] = NormedBlock

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    x = nn.Dense(self.width)(images.reshape(images.shape[0], -1))
    stack = Stack(self.block(), 2, self.scan_layers, self.remat)
    return stack(x, None)
