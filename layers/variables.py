"""The variables that a module begins with: parameters, and what else it keeps.

Beside parameters a module may have variables that no gradient changes: batch statistics, a
codebook. They are in collections of their own, under names that the module chooses.
"""

from typing import Any

import flax.errors
import flax.linen as nn
import jax
from flax.core.scope import DenyList

from layers.errors import UserError
from layers.reports import COLLECTION

# What a call leaves behind, which is nothing to begin with.
_OF_A_CALL = DenyList((COLLECTION, "cache", "intermediates"))


def first_variables(module: nn.Module, key: jax.Array, *inputs: Any, method: Any = None) -> Any:
  """Collection -> first values, each by its own initialiser: inputs are but shapes.

  Raises:
    UserError: a first value depends on the inputs.
  """
  try:
    return module.lazy_init(key, *inputs, method=method, mutable=_OF_A_CALL)
  except flax.errors.LazyInitError as error:
    raise UserError(
      f"a variable of {type(module).__name__} begins as something computed from its inputs; "
      "what a layer says of its inputs is a report (layers/reports.py), and a variable begins "
      "as a value of its own"
    ) from error
