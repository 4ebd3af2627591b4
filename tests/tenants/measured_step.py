"""Tenant: a step that tells how far it goes, and keeps an average of the parameters."""

from typing import Any

import fiddle as fdl
import jax
import jax.numpy as jnp
import optax

from runners.train_step import TrainStep
from tests.tenants.stdlib_text import text_config

DECAY = 0.9


class MeasuredStep(TrainStep):
  """How far a step goes, how far for the parameters' size, and where it has been on average."""

  statistics = ("update_norm", "relative_update", "distance_to_average")

  def variables(self, params: Any) -> dict[str, Any]:
    return {"average": params}

  def update(self, parts: Any, state: Any, found: Any) -> Any:
    after, _ = super().update(parts, state, found)
    mix = lambda old, new: DECAY * old + (1 - DECAY) * new
    average = jax.tree.map(mix, state.variables["average"], after.params)
    distance = lambda a, b: optax.tree.norm(jax.tree.map(jnp.subtract, a, b))
    moved = distance(after.params, state.params)
    return after.replace(variables={**after.variables, "average": average}), {
      "update_norm": moved,
      "relative_update": moved / optax.tree.norm(state.params),
      "distance_to_average": distance(after.params, average),
    }


def config(**fields: Any) -> fdl.Config:
  """A Trainer; `fields` replace its own."""
  return text_config(step=fdl.Config(MeasuredStep), **fields)
