"""What the runners ask of a model beside calling it: all of it, and one rule for all of it.

A model is any flax module that its objective can call. A trait below that it does not have does
not apply to it: a plain MLP has no positions to run out of and no rematerialisation to choose.
"""

import types
from typing import Any, Protocol, cast


class ModelTraits(Protocol):
  """Fields (or properties) of a model; each is None in a model without it.

  Attributes:
    num_layers: alike, one after another. `runner plan` allows collectives for each of them, one
      where there is none; a layer's `residual_depth` is this number.
    vocab_size: ids that the model knows; those of the data where it is unset.
    padded_vocab_size: rows of whatever has a logical axis called "vocab". Checkpoints hold the
      first `vocab_size`; without either, arrays are saved as they are.
    max_positions: rows of the position table; learned_positions: whether there is one. Without,
      generation takes the sequences of training for the longest.
    remat: a policy's name (layers/rematerialization.py); `runner plan --search` tries others.
  """

  num_layers: int | None
  vocab_size: int | None
  padded_vocab_size: int | None
  max_positions: int | None
  learned_positions: bool | None
  remat: str | None


def traits(model: Any) -> ModelTraits:
  """Those of a module or of its config."""
  values = {name: getattr(model, name, None) for name in ModelTraits.__annotations__}
  return cast(ModelTraits, types.SimpleNamespace(**values))
