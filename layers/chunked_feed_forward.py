"""The feed-forward, computed for a chunk of a device's tokens at a time.

Hidden activations [tokens, hidden] exist for one chunk at a time, forward and backward: the
backward pass computes them again. Devices exchange no more than without chunks: each gathers
the weights once, and sums weight gradients over all its chunks before exchanging them.

Letters: B batch, T length, D model dimension, F hidden dimension, N tokens, C chunk.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from layers.gathered_kernels import gathered, scattered
from layers.product import leaving, product
from layers.sharding import dividing_axes, per_device

Widened = dict[str, Any]  # name of a projection to F -> {"kernel": [D, F], "bias": [F]}


@dataclasses.dataclass(frozen=True)
class Chunks:
  """A feed-forward D -> F -> D without its weights.

  Attributes:
    names: of the projections to F.
    combine: maps their outputs, in this order, to the hidden activations.
    size: tokens of a chunk on a device.
    compute_dtype: of the products' operands.
    sum_dtype: of a device's output; float32 if several devices have a part of F.
    gathered: mesh axes over which dimension D of the kernels is split.
  """

  names: tuple[str, ...]
  combine: Callable[..., jax.Array]
  size: int
  compute_dtype: str
  sum_dtype: str
  gathered: tuple[str, ...]

  def transform(self, x: jax.Array, wide: Widened, down: jax.Array) -> jax.Array:
    """x [C, D] gives [C, D]: the result, or this device's part of its sum over F."""

    def widen(weights: dict[str, jax.Array]) -> jax.Array:
      y = product("td,df->tf", x, weights["kernel"], self.compute_dtype, leaving(x.dtype))
      if "bias" in weights:
        y = y.astype(jnp.float32) + weights["bias"].astype(jnp.float32)
      return y.astype(x.dtype)

    hidden = self.combine(*(widen(wide[name]) for name in self.names))
    return product("tf,fd->td", hidden, down, self.compute_dtype, self.sum_dtype)


def feed_forward_in_chunks(
  x: jax.Array,
  params: dict[str, Any],
  names: tuple[str, ...],
  combine: Callable[..., jax.Array],
  size: int,
  compute_dtype: str,
) -> jax.Array:
  """x [B, T, D] gives [B, T, D].

  Args:
    x: activations.
    params: name -> Projection's parameters, for `names` and "down".
    names: of the projections to F.
    combine: maps their outputs to the hidden activations.
    size: tokens on a device whose hidden activations exist at a time.
    compute_dtype: see Projection.
  """
  down = params["down"]["kernel"]
  rows = ("batch", "length", None)
  wide = {name: params[name] for name in names}
  axes = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
  wide_axes = {name: {key: axes[key] for key in weights} for name, weights in wide.items()}
  inputs, output = (rows, wide_axes, ("mlp", "embed")), ("mlp", *rows)
  split = dividing_axes("embed", down.shape[1], (inputs, output))
  is_split = len(dividing_axes("mlp", down.shape[0], (inputs, output))) > 0
  sum_dtype = "float32" if is_split else str(x.dtype)
  chunks = Chunks(names, combine, size, compute_dtype, sum_dtype, split)
  # Each device's part of the sum over F is a separate row. The compiler adds them, and so can
  # lay the sum out as the stream needs it.
  parts = per_device(functools.partial(_local, chunks), inputs, output)(x, wide, down)
  y = parts.sum(axis=0) if is_split else parts[0]
  if "bias" in params["down"]:
    y = y.astype(jnp.float32) + params["down"]["bias"].astype(jnp.float32)
  return y.astype(x.dtype)


def _local(chunks: Chunks, x: jax.Array, wide: Widened, down: jax.Array) -> jax.Array:
  """One device's result for its tokens and its part of F, [1, B, T, D]."""
  num_tokens = x.shape[0] * x.shape[1]
  size = min(chunks.size, num_tokens)
  flat = jnp.pad(x.reshape(num_tokens, -1), ((0, -num_tokens % size), (0, 0)))
  parts = flat.reshape(-1, size, x.shape[-1])
  y = cast(jax.Array, _in_chunks(chunks, parts, wide, down))
  return y.reshape(-1, x.shape[-1])[:num_tokens].reshape(1, *x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(chunks, x, wide, down):
  return _forward(chunks, x, wide, down)[0]


def _forward(chunks, x, wide, down):
  whole = _gathered(chunks, wide, down)
  y = jax.lax.map(lambda x: chunks.transform(x, *whole), x)
  return y, (x, wide, down)


def _backward(chunks, residuals, gradient):
  x, wide, down = residuals
  whole = _gathered(chunks, wide, down)

  def of_chunk(sums: Any, chunk: Any):
    x, gradient = chunk
    # Float32 kernels, although they are rounded again at once: a gradient has its operand's
    # dtype, and these gradients are summed over chunks and devices.
    exact = jax.tree.map(lambda w: w.astype(jnp.float32), whole)
    _, gradients = jax.vjp(chunks.transform, x, *exact)
    dx, *dweights = gradients(gradient)
    return jax.tree.map(jnp.add, sums, tuple(dweights)), dx

  zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), whole)
  sums, dx = jax.lax.scan(of_chunk, zeros, (x, gradient))
  dwide, ddown = _scattered(chunks, *sums)
  like = lambda gradient, w: gradient.astype(w.dtype)
  return dx, jax.tree.map(like, dwide, wide), like(ddown, down)


_in_chunks.defvjp(_forward, _backward)


def _gathered(chunks: Chunks, wide: Widened, down: jax.Array) -> tuple[Widened, jax.Array]:
  """The kernels with all of D."""
  gather = lambda kernel, dimension: gathered(
    kernel, chunks.gathered, dimension, chunks.compute_dtype
  )
  wide = {name: w | {"kernel": gather(w["kernel"], 0)} for name, w in wide.items()}
  return wide, gather(down, 1)


def _scattered(chunks: Chunks, wide: Widened, down: jax.Array) -> tuple[Widened, jax.Array]:
  """Gradients of whole kernels, summed over the gathering devices; each gets its part of D."""
  scatter = lambda gradient, dimension: scattered(gradient, chunks.gathered, dimension)
  wide = {name: w | {"kernel": scatter(w["kernel"], 0)} for name, w in wide.items()}
  return wide, scatter(down, 1)
