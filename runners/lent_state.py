"""The state of a run, lent to a callback for the time of one call."""

from typing import Any

import jax

from layers.errors import UserError

COPY = "copy what is to be kept, as in jax.tree.map(numpy.array, run.state.params)"


class LentState:
  """Reads like a TrainState (`lent.params`, `lent.opt_state`), until the call is over.

  The next step is given the state's buffers, so no array of it outlives the call. Each tree
  that is read is a new one of the same arrays, so that no change to it reaches the training.
  """

  __slots__ = ("_read", "_state", "_where")

  def __init__(self, state: Any, where: str):
    """`where` names the call in error messages: "Name.on_step at step 3".

    `state` is None where a step has failed that it had been given to.
    """
    object.__setattr__(self, "_state", state)
    object.__setattr__(self, "_where", where)
    object.__setattr__(self, "_read", False)

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__"):  # asked by copy, pickle and the like
      raise AttributeError(name)
    if self._state is None:
      raise UserError(
        f"run.state was lent to {self._where} and has been taken back since: the step after it "
        f"has its buffers; {COPY}"
      )
    object.__setattr__(self, "_read", True)
    return jax.tree.map(lambda x: x, getattr(self._state, name))

  def __setattr__(self, name: str, value: Any) -> None:
    raise UserError(f"run.state is read only: {self._where} set its {name!r}")

  def check(self) -> None:
    """Raises UserError where the borrower has deleted or donated an array."""
    if self._read and any(
      isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(self._state)
    ):
      raise UserError(
        f"{self._where} has deleted arrays of run.state, or donated them to a function of its "
        f"own: nothing is left to train with; {COPY}"
      )

  def take_back(self) -> None:
    """From now on nothing can be read."""
    object.__setattr__(self, "_state", None)
