"""Media that are logged beside scalars: texts, images and histograms.

A callback passes them to `run.write_media`, which passes each to all writers that have CLU's
method for it (`write_texts`, `write_images`, `write_histograms`).
"""

import dataclasses
from typing import Any

import numpy as np

from layers.errors import UserError
from layers.ranges import PositiveInt


@dataclasses.dataclass(frozen=True)
class Text:
  """Markdown, as TensorBoard shows it."""

  text: str


@dataclasses.dataclass(frozen=True)
class Image:
  """Pixels, copied: [H, W], [H, W, C] or several [N, H, W, C], where C is 1, 3 or 4.

  Integers are uint8; floats are between 0 and 1.

  Raises:
    UserError: another shape, type or range.
  """

  pixels: Any

  def __post_init__(self) -> None:
    pixels = np.array(self.pixels)
    if pixels.ndim == 2:
      pixels = pixels[..., None]
    if pixels.ndim == 3:
      pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
      raise UserError(
        f"an image of shape {np.shape(self.pixels)}: write [H, W], [H, W, C] or [N, H, W, C], "
        "where C is 1, 3 or 4"
      )
    if pixels.dtype != np.uint8 and np.issubdtype(pixels.dtype, np.integer):
      raise UserError(f"an image of {pixels.dtype}: give uint8, or floats between 0 and 1")
    if pixels.dtype != np.uint8:
      pixels = pixels.astype(np.float32)  # bfloat16 and bool too
      if not ((pixels >= 0) & (pixels <= 1)).all():  # false for NaN
        raise UserError("an image of floats has a value that is not between 0 and 1")
      pixels = np.round(pixels * 255).astype(np.uint8)
    object.__setattr__(self, "pixels", pixels)  # [N, H, W, C] uint8


@dataclasses.dataclass(frozen=True)
class Histogram:
  """The distribution of all numbers of an array of any shape, copied.

  Raises:
    UserError: there are no numbers, or some are not finite.
  """

  values: Any
  num_buckets: PositiveInt = 30

  def __post_init__(self) -> None:
    values = np.array(self.values, np.float64).ravel()
    if not values.size or not np.isfinite(values).all():
      raise UserError("a histogram needs numbers, all of them finite")
    object.__setattr__(self, "values", values)


Medium = Text | Image | Histogram


def as_medium(name: str, value: Any) -> Medium:
  """`value` as a medium; a str becomes a Text. UserError for any other type."""
  if isinstance(value, str):
    return Text(value)
  if isinstance(value, Medium):
    return value
  raise UserError(
    f"write_media({name!r}) was given a {type(value).__name__}: give a str, or an Image or a "
    "Histogram of runners.metrics.media"
  )
