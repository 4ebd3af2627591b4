"""Reports: named sums with weights that a layer hands out beside its output.

A layer deep inside a stack has no way to return a balance loss, or how many tokens it dropped.
It reports them, and whoever applies the model with COLLECTION mutable finds them beside the
output:

    report(self, "load_balance", total=(fraction * probability).sum(), weight=num_tokens)

A report is a sum over rows or tokens and the weight of that sum, so that it adds up to the same
whatever the batch is cut into: microbatches, devices, hosts. `Stack` adds its layers' reports,
or keeps them apart, and neither scan nor rematerialisation changes them.

Letters: L layers of a stack.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from layers.errors import UserError

COLLECTION = "reports"


class Report(flax.struct.PyTreeNode):
  """A sum and its weight, of one shape: total / weight is the mean.

  Attributes:
    total, weight: float32 scalars, or [L] if the layers of a stack are kept apart.
    per_layer: whether they are.
  """

  total: jax.Array
  weight: jax.Array
  per_layer: bool = flax.struct.field(pytree_node=False, default=False)


Reports = Mapping[str, Report]

_SEEN: contextvars.ContextVar[dict[str, Report] | None] = contextvars.ContextVar(
  "reports_seen", default=None
)


def report(
  module: nn.Module,
  name: str,
  total: jax.Array | float,
  weight: jax.Array | float,
  per_layer: bool = False,
) -> None:
  """Reports, within a module's call, that `total` is a sum of weight `weight`.

  Two reports of one name are added up; reports that nobody asks for are dropped.

  Args:
    module: the module that is being called.
    name: what it is called in logs, and what an objective asks for.
    total: scalar, a sum over rows or tokens. Leave padding out (`Tokens.segments` is 0 there).
    weight: scalar, what the sum is divided by in the end, such as the number of tokens.
    per_layer: keep the layers of a stack apart, and log each; otherwise they add up.

  Raises:
    UserError: total or weight is no scalar.
  """
  total, weight = jnp.asarray(total, jnp.float32), jnp.asarray(weight, jnp.float32)
  if total.shape or weight.shape:
    raise UserError(
      f"the report {name!r} of {type(module).__name__} has the shapes {total.shape} and "
      f"{weight.shape}: give a sum and its weight, two scalars"
    )
  new = Report(total, weight, per_layer)
  _note({name: jax.eval_shape(lambda: new)})
  nothing = lambda: jax.tree.map(jnp.zeros_like, new)
  module.sow(COLLECTION, name, new, reduce_fn=lambda x, y: _added(name, x, y), init_fn=nothing)


def by_name(collection: Any) -> dict[str, Report]:
  """Name -> report of a whole model; reports of one name are added up."""
  found: dict[str, Report] = {}
  for path, one in jax.tree_util.tree_leaves_with_path(collection, is_leaf=_is_report):
    found = merged(found, {str(path[-1].key): one})
  return found


def merged(left: Reports, right: Reports) -> dict[str, Report]:
  """The reports of two calls, or of two parts of a batch; those of one name are added up."""
  both = {name: _added(name, left[name], right[name]) for name in left if name in right}
  return {**left, **right, **both}


def over_layers(stacked: Any) -> Any:
  """The reports of a stack, from those of its layers along a leading axis of every array."""
  add = lambda x: x if x.per_layer else jax.tree.map(lambda sums: sums.sum(axis=0), x)
  return jax.tree.map(add, stacked, is_leaf=_is_report)


@contextlib.contextmanager
def reports_seen() -> Iterator[dict[str, Report]]:
  """Notes every call of `report` meanwhile: name -> the shapes of the report.

  So the trace that makes the parameters also tells what the model will report.
  """
  seen: dict[str, Report] = {}
  token = _SEEN.set(seen)
  try:
    yield seen
  finally:
    _SEEN.reset(token)


@contextlib.contextmanager
def seen_in_stack(num_layers: int) -> Iterator[None]:
  """Counts each report meanwhile `num_layers` times: one layer is traced for all."""
  with reports_seen() as seen:
    yield
  of_all = lambda x: jax.ShapeDtypeStruct((num_layers, *x.shape), x.dtype)
  _note(jax.eval_shape(over_layers, jax.tree.map(of_all, seen)))


def _note(new: Reports) -> None:
  if (seen := _SEEN.get()) is not None:
    seen.update(jax.eval_shape(merged, dict(seen), dict(new)))


def _added(name: str, left: Report, right: Report) -> Report:
  if (left.per_layer, left.total.shape) != (right.per_layer, right.total.shape):
    raise UserError(
      f"the report {name!r} is made in two places, of {left.total.shape or 'a scalar'} and of "
      f"{right.total.shape or 'a scalar'}: give one of them another name"
    )
  return jax.tree.map(jnp.add, left, right)


def _is_report(x: Any) -> bool:
  return isinstance(x, Report)
