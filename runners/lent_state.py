"""The state of a run, lent to a callback for the duration of one call."""

from typing import Any

import jax

from layers.errors import UserError

COPY = "copy what is to be kept, as in jax.tree.map(numpy.array, run.state.params)"


class LentState:
  """Reads like a TrainState (`lent.params`, `lent.opt_state`), until the call is over.

  The next step takes over the state's buffers, so no array of it outlives the call. Reading a
  field gives a new tree of the same arrays, so that changing the tree does not affect training.
  """

  __slots__ = ("_read", "_state", "_where")

  def __init__(self, state: Any, where: str):
    """`where` names the call in error messages: "Name.on_step at step 3".

    `state` is None if a step that had taken its buffers failed.
    """
    object.__setattr__(self, "_state", state)
    object.__setattr__(self, "_where", where)
    object.__setattr__(self, "_read", False)

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__"):  # copy and pickle look these up
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
    """Raises UserError if the callback has deleted or donated an array."""
    if self._read and any(
      isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(self._state)
    ):
      raise UserError(
        f"{self._where} has deleted arrays of run.state, or donated them to a function of its "
        f"own: nothing is left to train with; {COPY}"
      )

  def take_back(self) -> None:
    """Ends the loan: nothing can be read any more."""
    object.__setattr__(self, "_state", None)
