"""The model as an objective calls it: with parameters, variables and dropout in place."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.core.scope import DenyList

from layers import cache
from layers.errors import UserError
from layers.reports import COLLECTION, by_name
from tasks.objective import ROWS, Answer, Objective, Outcome

# Any other collection may be written to, so that none is lost without a word.
_GIVEN = ("params", cache.COLLECTION)


class ModelForward:
  """See tasks.objective.Forward.

  Args:
    model: called as the objective calls it.
    params, variables: of the model.
    batch: with its rows; the model is called on what the objective makes of it.
    key: of dropout; None in evaluation.
  """

  def __init__(
    self,
    model: nn.Module,
    params: Any,
    variables: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array | None = None,
  ):
    self.params, self.rows, self.training = params, batch[ROWS], key is not None
    self._model, self._variables = model, variables
    self._rngs = {} if key is None else {"dropout": key}

  def __call__(
    self, *inputs: Any, method: Any = None, params: Any = None, variables: Any = None
  ) -> Answer:
    params = self.params if params is None else params
    variables = self._variables if variables is None else variables
    output, left = self._model.apply(
      {**variables, "params": params},
      *inputs,
      method=method,
      rngs=self._rngs,
      # A layer can tell from its collection whether it learns, and cannot change it if not.
      mutable=DenyList(_GIVEN if self.training else (*_GIVEN, *variables)),
    )
    updated = dict(left)
    reports = by_name(updated.pop(COLLECTION, {}))
    if unknown := sorted(updated.keys() - variables.keys()):
      raise UserError(
        f"a layer of {type(self._model).__name__} writes to {' and '.join(unknown)}, a "
        "collection that nobody reads: what it says of a batch is a report "
        "(layers/reports.py), and a variable that it keeps has to be there from the start"
      )
    return Answer(output, reports, updated if self.training else variables)


def outcome(objective: Objective, forward: ModelForward, batch: Any, totals: Any) -> Outcome:
  """What the objective makes of a batch; raises UserError where it is of another form."""
  found = objective.loss(forward, batch, totals)
  if not isinstance(found, Outcome):
    raise UserError(
      f"{type(objective).__name__}.loss returns a {type(found).__name__}, not an Outcome: "
      "answer = forward(...); return answer.outcome(loss, metrics)"
    )
  return found
