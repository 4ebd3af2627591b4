"""Whether rows need no mask but the causal one: decided once for a step, not in every layer.

Attention kernels are fastest where each row has one document. Who chooses by the data within a
layer makes a GPU's host wait for that answer in every layer, forward and backward. Instead
`decided_once` computes the answer once, and has the whole step in two forms, one for each; on
several devices the layers still choose.

Letters: B batch, T length.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from layers.sharding import is_split, platform
from layers.tokens import Tokens


@dataclasses.dataclass
class _Decision:
  """What is traced at this point may take for granted.

  Attributes:
    whole: the answer.
    asked: whether anybody wanted to know.
    strict: whether somebody may be answered yes only where there is no padding either.
  """

  whole: bool
  asked: bool = False
  strict: bool = False


_DECISION: contextvars.ContextVar[_Decision | None] = contextvars.ContextVar(
  "decision", default=None
)


def known_to_be_whole(*, without_padding: bool) -> bool | None:
  """Whether each row has one document and then, perhaps, padding; None: that is not decided.

  Args:
    without_padding: yes means that there is no padding either. Under a causal mask, tokens see
      none of the padding that comes after them.
  """
  decision = _DECISION.get()
  if decision is None:
    return None
  decision.asked = True
  decision.strict |= without_padding
  return decision.whole


def are_whole(segments: jax.Array, *, without_padding: bool) -> jax.Array:
  """The answer for segments [B, T], bool scalar: see `known_to_be_whole`."""
  first = segments[:, :1]
  if without_padding:
    return (segments == first).all()
  is_padding = segments == 0
  never_after_padding = (is_padding[:, 1:] >= is_padding[:, :-1]).all()
  return ((segments == first) | is_padding).all() & never_after_padding


def decided_once(function: Callable[[], Any], inputs: Callable[[], Sequence[Any]]) -> Any:
  """function(), in which nobody has to look at the rows again.

  Args:
    function: gives arrays, and is traced twice if it depends on the answer; no side effects.
    inputs: gives the inputs of the model, of all its rows; without `Tokens` among them nothing
      is known of rows.
  """
  # No kernel of another platform depends on it. On several devices the layers choose: what
  # leaves a choice is not split as what it goes into, so gradients would lie whole on each.
  if platform() != "gpu" or is_split():
    return function()
  tokens = next((x for x in inputs() if isinstance(x, Tokens)), None)
  if tokens is None:
    return function()
  with _decided(whole=True) as decision:
    traced, shapes = jax.make_jaxpr(function, return_shape=True)()

  def whole() -> Any:
    return jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(traced)())

  def mixed() -> Any:
    with _decided(whole=False):
      return function()

  if not decision.asked:
    return whole()
  answer = are_whole(tokens.segments, without_padding=decision.strict)
  return jax.lax.cond(answer, whole, mixed)


@contextlib.contextmanager
def _decided(*, whole: bool) -> Iterator[_Decision]:
  decision = _Decision(whole)
  token = _DECISION.set(decision)
  try:
    yield decision
  finally:
    _DECISION.reset(token)
