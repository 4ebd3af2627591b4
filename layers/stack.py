"""A block repeated num_layers times, scanned or unrolled.

The block is used as a pure function of (parameters, input). Parameters and dropout of layer
i are keyed by i alone, so that both forms begin with the same values and drop the same
elements, and a checkpoint of one converts to the other by stacking.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from layers import cache
from layers.ranges import PositiveInt
from layers.rematerialization import RematPolicy, rematerialized
from layers.tokens import Tokens


class Stack(nn.Module):
  """x passed through `num_layers` copies of `block`.

  Attributes:
    block: a template, called as (x, tokens).
    num_layers: how many.
    scan_layers: one compiled body and parameters stacked on a leading axis "layers"
      (compile time independent of depth); otherwise each layer apart, which compiles
      longer and runs faster where layers are small.
    remat: what the backward pass recomputes.
  """

  block: nn.Module
  num_layers: PositiveInt
  scan_layers: bool = True
  remat: RematPolicy = "none"

  @nn.compact
  def __call__(self, x: jax.Array, tokens: Tokens) -> jax.Array:
    """x [B, T, D] gives [B, T, D]."""
    block = self.block.clone(parent=None, name=None)

    def init_layers(key: jax.Array) -> Any:
      keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_layers))
      if not self.scan_layers:
        return {str(i): init_layer(keys[i]) for i in range(num_layers)}
      return nn.meta.add_axis(jax.vmap(init_layer)(keys), 0, {nn.PARTITION_NAME: "layers"})

    def init_layer(key: jax.Array) -> Any:
      # Shapes alone go through the block: no kernel of its attention is made, or batched.
      inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (x, tokens))
      return block.lazy_init(key, *inputs)["params"]

    def apply_layer(params: Any, x: jax.Array, key: jax.Array | None) -> jax.Array:
      rngs = {} if key is None else {"dropout": key}
      y = block.apply({"params": params}, x, tokens, rngs=rngs)
      return cast(jax.Array, y)

    num_layers = self.num_layers
    if not self.has_variable("params", "layers"):
      self.param("layers", init_layers)
      return x  # a model that is only initialised needs the shape alone
    # Not `param`, which traces all layers once more to compare shapes.
    params = nn.unbox(self.get_variable("params", "layers"))
    if cache.in_use(self):
      return self._with_cache(block, params, x, tokens)
    keys = self._dropout_keys()
    apply_layer = rematerialized(apply_layer, self.remat, in_scan=self.scan_layers)
    if self.scan_layers:
      body = lambda x, layer: (apply_layer(layer[0], x, layer[1]), None)
      return jax.lax.scan(body, x, (params, keys))[0]
    for i in range(num_layers):
      x = apply_layer(params[str(i)], x, None if keys is None else keys[i])
    return x

  def _with_cache(self, block: nn.Module, params: Any, x: jax.Array, tokens: Tokens) -> Any:
    """x [B, T, D] through layers that each have a cache, under the key of their parameters."""
    caches = self.get_variable(cache.COLLECTION, "layers", {})

    def apply_layer(x: jax.Array, layer: tuple[Any, Any]) -> tuple[jax.Array, Any]:
      variables = {"params": layer[0]} | ({cache.COLLECTION: layer[1]} if layer[1] else {})
      y, updated = block.apply(variables, x, tokens, mutable=[cache.COLLECTION])
      return cast(jax.Array, y), updated.get(cache.COLLECTION, {})

    if self.scan_layers:
      x, caches = jax.lax.scan(apply_layer, x, (params, caches))
    else:
      before, caches = caches, {}
      for i in map(str, range(self.num_layers)):
        x, caches[i] = apply_layer(x, (params[i], before.get(i, {})))
    self.put_variable(cache.COLLECTION, "layers", caches)
    return x

  def _dropout_keys(self) -> jax.Array | None:
    if not self.has_rng("dropout"):
      return None
    base = self.make_rng("dropout")
    layers = jnp.arange(self.num_layers)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, layers)
