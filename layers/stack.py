"""A block repeated num_layers times, scanned or unrolled.

The block is used as a pure function of (parameters, input). Parameters and dropout of layer i
are keyed only by i, so both forms start with the same values and drop the same elements, and
stacking converts a checkpoint of one form to the other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import subtract_filters

from layers import cache
from layers.initializers import one_by_one
from layers.ranges import PositiveInt
from layers.rematerialization import RematPolicy, rematerialized
from layers.reports import COLLECTION, over_layers, seen_in_stack
from layers.sharding import is_split, platform
from layers.tokens import Tokens
from layers.variables import first_variables

_MOST_UNROLLED = 24


class Stack(nn.Module):
  """x passed through `num_layers` copies of `block`.

  Attributes:
    block: a template, called as (x, tokens).
    num_layers: how many.
    scan_layers: a number: parameters stacked on a leading axis "layers", and so many layers in
      the body of a loop. With 1, compile time does not depend on depth; with all layers there
      is no loop, and nothing that is kept for the backward pass is copied into a stack and out
      of it. True: 1, but all layers on a single GPU, unless they are more than 24, which would
      compile for minutes. False: separate layers, each with parameters of its own.
    remat: which tensors the backward pass recomputes.
  """

  block: nn.Module
  num_layers: PositiveInt
  scan_layers: bool | PositiveInt = True
  remat: RematPolicy = "none"

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    """x [B, T, D] gives [B, T, D].

    All collections of the block have the layers where its parameters have them; its reports
    (layers/reports.py) are added up over the layers, or kept apart, as they say.
    """
    block = self.block.clone(parent=None, name=None)
    if not self.has_variable("params", "layers"):
      self._init_layers(block, x, tokens)
      return x  # initialisation needs only the shape
    # Not `param`, which would trace all layers again to compare shapes.
    variables = {
      name: nn.unbox(self.get_variable(name, "layers", {})) for name in self.variables
    }
    assert self.scope is not None  # within a call there is one
    mutable = subtract_filters(self.scope.mutable, "params")

    def apply_layer(variables: Any, x: jax.Array, key: jax.Array | None) -> Any:
      rngs = {} if key is None else {"dropout": key}
      return block.apply(variables, x, tokens, rngs=rngs, mutable=mutable)

    if not cache.in_use(self):  # else there is no gradient, and nothing to keep
      apply_layer = rematerialized(apply_layer, self.remat, in_scan=self._is_loop())
    keys = self._dropout_keys()
    if self.scan_layers:
      body = lambda x, layer: apply_layer(layer[0], x, layer[1])
      x, updated = jax.lax.scan(body, x, (variables, keys), unroll=self._group())
    else:
      x, updated = self._unrolled(apply_layer, variables, x, keys)
    self._hand_out(dict(updated))
    return x

  def _init_layers(self, block: nn.Module, x: jax.Array, tokens: Tokens) -> None:
    """Makes the layers' parameters, and whatever variables else they begin with."""
    num_layers, others = self.num_layers, {}
    # Shapes alone go through the block: no kernel of its attention is made, or batched.
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (x, tokens))
    init_layer = lambda key: first_variables(block, key, *inputs)

    def init_layers(key: jax.Array) -> Any:
      keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_layers))
      if not self.scan_layers:
        layers = {str(i): x for i, x in enumerate(one_by_one(init_layer, keys))}
        others.update(_by_collection(layers))
      else:
        stacked = jax.vmap(init_layer)(keys)
        others.update(nn.meta.add_axis(stacked, 0, {nn.PARTITION_NAME: "layers"}))
      return others.pop("params", {})

    with seen_in_stack(num_layers):
      self.param("layers", init_layers)
    for name, values in others.items():
      self.put_variable(name, "layers", values)

  def _group(self) -> int:
    """Layers in the body of the loop."""
    if self.scan_layers is True and platform() == "gpu" and not cache.in_use(self):
      # On several devices a loop keeps gathered weights from waiting for the backward pass.
      return self.num_layers if self.num_layers <= _MOST_UNROLLED and not is_split() else 1
    return min(int(self.scan_layers), self.num_layers)

  def _is_loop(self) -> bool:
    """Whether all layers stand in a loop, none after it because groups do not come out even."""
    group = self._group()
    return group == 1 or (1 < group < self.num_layers and self.num_layers % group == 0)

  def _unrolled(
    self, apply_layer: Callable, variables: Any, x: jax.Array, keys: jax.Array | None
  ) -> tuple[jax.Array, Any]:
    updated = {}
    for i in range(self.num_layers):
      layer = {name: values[str(i)] for name, values in variables.items() if str(i) in values}
      x, updated[str(i)] = apply_layer(layer, x, None if keys is None else keys[i])
    return x, _by_collection(updated)

  def _hand_out(self, updated: dict[str, Any]) -> None:
    """Puts what the layers changed or said where the model finds it."""
    reports = updated.pop(COLLECTION, None)
    if reports and not self.scan_layers:
      reports = jax.tree.map(lambda *x: jnp.stack(x), *reports.values())
    if reports:
      self.put_variable(COLLECTION, "layers", over_layers(reports))
    for name, values in updated.items():
      self.put_variable(name, "layers", values)

  def _dropout_keys(self) -> jax.Array | None:
    if not self.has_rng("dropout"):
      return None
    base = self.make_rng("dropout")
    layers = jnp.arange(self.num_layers)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, layers)


def _by_collection(layers: Mapping[str, Any]) -> dict[str, Any]:
  """Layer -> collection -> values as collection -> layer -> values."""
  names = dict.fromkeys(name for layer in layers.values() for name in layer)
  return {name: {i: layer.get(name, {}) for i, layer in layers.items()} for name in names}
