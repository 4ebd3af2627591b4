"""Cross-entropy of each token straight from features, a chunk of tokens at a time.

Logits [tokens, vocabulary] exist for one chunk at a time, forward and backward: the backward
pass computes them again. If the vocabulary is split over devices, each device has some columns,
and they exchange a few numbers for each token. Rows of the matrix that are split over devices
are gathered once for all chunks.

Letters: B batch, T length, D model dimension, V vocabulary with its padding, N tokens.
"""

import dataclasses
import functools
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp

from layers import dtypes
from layers.embeddings import mask_padding
from layers.gathered_kernels import gathered, scattered
from layers.product import product, project
from layers.sharding import dividing_axes, per_device, platform

_LOWEST = float(jnp.finfo(jnp.float32).min)


@flax.struct.dataclass
class LazyLogits:
  """Logits not computed yet: the features, and the matrix that maps them to logits.

  Attributes:
    features: [B, T, D].
    kernel: [D, V].
    vocab_size: ids from here on are padding.
    chunk: tokens on a device whose logits exist at a time.
    compute_dtype: of the product's operands.
  """

  features: jax.Array
  kernel: jax.Array
  vocab_size: int = flax.struct.field(pytree_node=False)
  chunk: int = flax.struct.field(pytree_node=False)
  compute_dtype: str = flax.struct.field(pytree_node=False)

  def whole(self) -> jax.Array:
    """[B, T, V] float32, all at once."""
    logits = project(self.features, self.kernel, self.compute_dtype)
    return mask_padding(logits, self.vocab_size)

  def losses(self, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `cross_entropy.token_losses`."""
    tokens = ("batch", "length")
    inputs = ((*tokens, None), ("embed", "activation_vocab"), tokens)
    # No mesh axis may split both tokens and columns of a device's logits.
    logits = (*tokens, "activation_vocab")
    dividing = lambda name, size: dividing_axes(name, size, (inputs, logits))
    split = dividing("embed", self.kernel.shape[0])
    axes = dividing("activation_vocab", self.kernel.shape[1])
    head = _Head(self.vocab_size, self.chunk, self.compute_dtype, split, axes)
    local = per_device(
      functools.partial(_local_losses, head), inputs, (tokens, tokens), within=logits
    )
    return local(self.features, self.kernel, targets)


def whole_logits(logits: jax.Array | LazyLogits) -> jax.Array:
  """The logits [B, T, V] float32 of a model that may return LazyLogits."""
  return logits.whole() if isinstance(logits, LazyLogits) else logits


@dataclasses.dataclass(frozen=True)
class _Head:
  """The head, apart from its matrix.

  Attributes:
    vocab_size, chunk, compute_dtype: see LazyLogits.
    gathered: mesh axes over which dimension D of the matrix is split.
    axes: mesh axes over which its columns are split.
  """

  vocab_size: int
  chunk: int
  compute_dtype: str
  gathered: tuple[str, ...]
  axes: tuple[str, ...]

  def ids(self, num_columns: int) -> jax.Array:
    """The ids of this device's columns, [V]."""
    first = jax.lax.axis_index(self.axes) * num_columns if self.axes else 0
    return first + jnp.arange(num_columns)

  def logits(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [N, D] and kernel [D, V] give [N, V] float32."""
    logits = product("nd,dv->nv", x, kernel, self.compute_dtype)
    return jnp.where(self.ids(kernel.shape[1]) < self.vocab_size, logits, _LOWEST)

  def log_z_and_chosen(
    self, logits: jax.Array, targets: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Log of the partition function and the target's logit, both [N], from [N, V] and [N]."""
    is_target = self.ids(logits.shape[1]) == targets[:, None]
    if in_one_pass():
      here, total, chosen = partial_sums(logits, is_target)
      highest = self.max(here)
      return highest + jnp.log(self.sum(total * jnp.exp(here - highest))), self.sum(chosen)
    highest = self.max(logits.max(axis=-1))
    log_z = highest + jnp.log(self.sum(jnp.exp(logits - highest[:, None]).sum(axis=-1)))
    return log_z, self.sum(jnp.where(is_target, logits, 0.0).sum(axis=-1))

  def sum(self, x: jax.Array) -> jax.Array:
    """The sum of x over all devices that have columns."""
    return jax.lax.psum(x, self.axes) if self.axes else x

  def max(self, x: jax.Array) -> jax.Array:
    """The maximum of x over all devices that have columns."""
    return jax.lax.pmax(x, self.axes) if self.axes else x


def _local_losses(head: _Head, features: jax.Array, kernel: jax.Array, targets: jax.Array):
  """One device's computation, for its tokens [B, T] and its columns."""
  num_tokens = targets.size
  missing = -num_tokens % min(head.chunk, num_tokens)
  x = jnp.pad(features.reshape(num_tokens, -1), ((0, missing), (0, 0)))
  flat = jnp.pad(targets.reshape(num_tokens), (0, missing))
  losses = cast(tuple[jax.Array, jax.Array], _losses(head, x, kernel, flat))
  return tuple(y[:num_tokens].reshape(targets.shape) for y in losses)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(head, x, kernel, targets):
  return _forward(head, x, kernel, targets)[0]


def _forward(head, x, kernel, targets):
  dtype = dtypes.resolve(head.compute_dtype)
  whole = gathered(kernel, head.gathered, 0, head.compute_dtype)

  def of_chunk(chunk: Any):
    x, targets = chunk
    log_z, chosen = head.log_z_and_chosen(head.logits(x, whole), targets)
    return log_z - chosen, log_z

  nll, log_z = jax.lax.map(of_chunk, (_chunks(head, x), _chunks(head, targets)))
  like = jnp.empty(0, x.dtype), jnp.empty(0, kernel.dtype)
  losses = nll.reshape(-1), log_z.reshape(-1)
  return losses, (x.astype(dtype), whole, targets, losses[1], like)


def _backward(head, residuals, gradients):
  x, kernel, targets, log_z, like = residuals
  # All devices that have columns hold the same losses, and each gets a share of the gradient.
  dnll, dlog_z = (head.sum(gradient) for gradient in gradients)

  def add(dkernel: jax.Array, chunk: Any):
    x, targets, log_z, dnll, dlog_z = chunk
    probabilities = jnp.exp(head.logits(x, kernel) - log_z[:, None])
    is_target = head.ids(kernel.shape[1]) == targets[:, None]
    dlogits = (dnll + dlog_z)[:, None] * probabilities
    dlogits -= jnp.where(is_target, dnll[:, None], 0.0)
    dkernel += product("nd,nv->dv", x, dlogits, head.compute_dtype)
    return dkernel, product("nv,dv->nd", dlogits, kernel, head.compute_dtype, like[0].dtype)

  chunks = tuple(_chunks(head, y) for y in (x, targets, log_z, dnll, dlog_z))
  dkernel, dx = jax.lax.scan(add, jnp.zeros(kernel.shape), chunks)
  dkernel = scattered(dkernel, head.gathered, 0).astype(like[1].dtype)
  # Only the optimizer needs the matrix's gradient. Without this barrier the compiler may keep
  # the whole of it, not yet summed over devices, until all layers are done.
  dx, dkernel = jax.lax.optimization_barrier((dx, dkernel))
  return dx.reshape(x.shape), dkernel, None


_losses.defvjp(_forward, _backward)


def _chunks(head: _Head, x: jax.Array) -> jax.Array:
  """[N, ...] as [chunks, tokens, ...]."""
  return x.reshape(-1, min(head.chunk, x.shape[0]), *x.shape[1:])


def in_one_pass() -> bool:
  """Whether `partial_sums` reads logits once here: on CPU its loop would be slower than two."""
  return platform() != "cpu"


def partial_sums(
  logits: jax.Array, is_target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Of each token's logits (or some of them): highest, sum of exp(logit - highest), target's.

  The sum is corrected whenever a higher logit comes (Milakov and Gimelshein, 2018,
  https://arxiv.org/abs/1805.02867), so that logits need not be read once for their maximum and
  again for their sum.

  Args:
    logits: [..., V] float32.
    is_target: [..., V] bool, one True at most for each token; without one the last result is 0.

  Returns:
    Three arrays [...] float32.
  """
  ones = jnp.ones_like(logits)
  chosen = jnp.where(is_target, logits, 0.0)
  first = tuple(jnp.float32(x) for x in (_LOWEST, 0.0, 0.0))
  return jax.lax.reduce((logits, ones, chosen), first, _merge, (logits.ndim - 1,))


def _merge(left, right):
  highest = jnp.maximum(left[0], right[0])
  total = left[1] * jnp.exp(left[0] - highest) + right[1] * jnp.exp(right[0] - highest)
  return highest, total, left[2] + right[2]
