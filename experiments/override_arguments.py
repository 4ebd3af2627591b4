"""Overrides as given on the command line, and their errors; imports neither fiddle nor jax.

experiments/overrides.py applies them.
"""

import dataclasses
from collections.abc import Sequence

from layers.errors import UserError

GIN_VERBS = ("gin_file", "gin_bindings")
VERBS = ("set", "unset", "fiddler", "config", *GIN_VERBS)


@dataclasses.dataclass(frozen=True)
class Override:
  """One argument: `Override("set", "model.num_layers=3")` is `--set=model.num_layers=3`."""

  verb: str
  text: str

  def __str__(self) -> str:
    return f"--{self.verb}={self.text}"


class OverrideErrors(UserError):
  """All wrong overrides; `errors` has a line for each."""

  def __init__(self, errors: Sequence[str]):
    super().__init__("\n".join(errors))
    self.errors = tuple(errors)
