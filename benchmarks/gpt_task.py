"""What the GPTs of train_step.py learn: sizes, and a text that is on every machine.

The sizes are those of nanoGPT's two character-level runs, on a laptop and on a GPU, the latter
with 16 rows and without dropout, as both sides would draw their own.
"""

import argparse
import inspect
from pathlib import Path

from experiments import gpt2
from layers.errors import UserError

MODULES = (argparse, inspect)  # 0.25 MB of text
NUM_BATCHES = 50  # then they come again


class Tiny(gpt2.ShakespeareCharCpu):
  size = gpt2.Size(num_layers=1, num_heads=2, model_dim=16)
  batch_size, sequence_length = 2, 16


class Small(gpt2.ShakespeareCharCpu):
  """4 layers, width 128, 12 rows of 64."""


class Large(gpt2.ShakespeareChar):
  """6 layers, width 384, 16 rows of 256."""

  batch_size = 16
  dropout_rate = 0.0


SIZES = {"tiny": Tiny, "small": Small, "large": Large}


def write_text(folder: Path) -> Path:
  """The text in a file of its own, without what is not ASCII."""
  text = "".join(inspect.getsource(module) for module in MODULES)
  if not text:
    raise UserError("this Python has no sources of its standard library")
  path = folder / "text.txt"
  path.write_text(text.encode("ascii", "ignore").decode())
  return path
