"""What the runners ask of a model besides calling it.

A model is any flax module that its objective can call. A trait that the module lacks does not
apply to it: a plain MLP has no position table to outgrow and no rematerialisation to choose.
"""

import types
from typing import Any, Protocol, cast


class ModelTraits(Protocol):
  """Fields or properties of a model; None if the model lacks one.

  Attributes:
    num_layers: of the stack. `residual_depth` is derived from it, and `runner plan` multiplies
      a collective budget per layer by it (by 1 if None).
    vocab_size: ids that the model knows; None in a config: as many as the data's vocabulary.
    padded_vocab_size: rows along the logical axis "vocab". Checkpoints keep the first
      `vocab_size` of them; if both are None, arrays are saved whole.
    max_positions: rows of the position table; learned_positions: whether there is a table. If
      there is none, generation ends at the length of the training sequences.
    remat: name of a policy (layers/rematerialization.py); `runner plan --search` tries others
      unless it is None.
  """

  num_layers: int | None
  vocab_size: int | None
  padded_vocab_size: int | None
  max_positions: int | None
  learned_positions: bool | None
  remat: str | None


def traits(model: Any) -> ModelTraits:
  """The traits of a module or of its config."""
  values = {name: getattr(model, name, None) for name in ModelTraits.__annotations__}
  return cast(ModelTraits, types.SimpleNamespace(**values))
