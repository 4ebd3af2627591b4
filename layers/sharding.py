"""Logical axis names, and the one place where they meet a mesh.

A parameter names each of its dimensions (`partitioned_init`), an activation that matters is
constrained by name (`constrain`). Rules from logical names to mesh axes belong to the
experiment; layers never see the mesh. Names in use:

  parameters    vocab, position, embed, heads, kv_heads, head_dim, mlp, layers
  activations   batch, length, activation_embed, activation_heads, activation_kv_heads,
                activation_mlp, activation_vocab; cache_length: slots of layers/cache.py
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

_MESH: contextvars.ContextVar[jax.sharding.Mesh | None] = contextvars.ContextVar(
  "mesh", default=None
)
_SEEN: contextvars.ContextVar[list["Constraint"] | None] = contextvars.ContextVar(
  "seen", default=None
)


class Constraint(NamedTuple):
  """What a layer asked of one activation: a logical name for each dimension."""

  names: tuple[str | None, ...]
  shape: tuple[int, ...]


@contextlib.contextmanager
def partitioned(mesh: jax.sharding.Mesh, rules: Rules) -> Iterator[None]:
  """Within, `constrain` means the dimensions of `mesh` that `rules` give."""
  token = _MESH.set(mesh)
  try:
    with nn.logical_axis_rules(rules):
      yield
  finally:
    _MESH.reset(token)


@contextlib.contextmanager
def constraints_seen() -> Iterator[list[Constraint]]:
  """Within, every call of `constrain` is added to the list: trace a model to learn its own."""
  seen: list[Constraint] = []
  token = _SEEN.set(seen)
  try:
    yield seen
  finally:
    _SEEN.reset(token)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Asks the compiler to lay `x` out by these logical axes; outside a mesh, x itself."""
  if (seen := _SEEN.get()) is not None:
    seen.append(Constraint(names, x.shape))
  mesh = _MESH.get()
  if mesh is None or mesh.size == 1:
    return x
  return nn.spmd.with_logical_constraint(x, names, mesh=mesh)


def partitioned_init(init: nn.initializers.Initializer, *names: str) -> Any:
  """`init` whose result carries the logical name of each dimension."""
  return nn.with_logical_partitioning(init, names)
