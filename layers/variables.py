"""The first values of a module's variables: parameters and other collections.

Besides parameters a module may have variables that no gradient changes: batch statistics
or a codebook. They lie in collections of their own, under names that the module chooses.
"""

from typing import Any

import flax.errors
import flax.linen as nn
import jax
from flax.core.scope import DenyList
from jax.interpreters import partial_eval

from layers.errors import UserError
from layers.reports import COLLECTION

# Collections that a call fills; they begin empty.
_OF_A_CALL = DenyList((COLLECTION, "cache", "intermediates"))


def first_variables(module: nn.Module, key: jax.Array, *inputs: Any, method: Any = None) -> Any:
  """Collection -> first values, each made by its own initialiser; `inputs` give shapes only.

  Raises:
    UserError: a first value depends on the inputs.
  """
  try:
    made = module.lazy_init(key, *inputs, method=method, mutable=_OF_A_CALL)
  except flax.errors.LazyInitError as error:
    raise UserError(_of_inputs(module)) from error
  if made.keys() - {"params"}:
    _check_own_values(module, inputs, method)
  return made


def _check_own_values(module: nn.Module, inputs: Any, method: Any) -> None:
  """Raises UserError if a variable beside the parameters begins as a function of the inputs.

  From flax 0.12.12 on, lazy_init computes such a value from zeros and says nothing. This traces
  the module once more.
  """

  def others(key: jax.Array, inputs: Any) -> dict[str, Any]:
    made = dict(module.init(key, *inputs, method=method, mutable=_OF_A_CALL))
    made.pop("params", None)
    return made

  traced = jax.make_jaxpr(others)(jax.random.key(0), inputs)
  _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals))
  if any(used[1:]):  # after the key
    raise UserError(_of_inputs(module))


def _of_inputs(module: nn.Module) -> str:
  return (
    f"a variable of {type(module).__name__} begins as something computed from its inputs; "
    "what a layer says of its inputs is a report (layers/reports.py), and a variable begins "
    "as a value of its own"
  )
