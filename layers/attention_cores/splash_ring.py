"""A ring's steps by the splash kernels: flash attention of pairs of chunks.

A device attends causally to its own keys. For each other device two unmasked chunk pairs
matter: our second chunk with its first, and second-second (later device) or first-first
(earlier); see layers/attention_cores/zigzag.py. Partial results are joined by the logs of their
sums. A pair's gradients need only the finished output and sums.

Letters: B batch, N query heads, K key heads, T length on a device, C = T / 2 chunk, H head
dimension.
"""

import dataclasses
import functools
import math
from typing import cast

import jax
import jax.numpy as jnp

from layers import dtypes
from layers.attention_cores import splash_kernels
from layers.attention_cores.heads_and_rows import SPLIT_ROWS, by_head, rows_filled
from layers.attention_cores.online_softmax import LOWEST, kept
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.splash import SplashAttention
from layers.attention_cores.splash_kernels import Kernel
from layers.attention_cores.zigzag import Ring
from layers.masks import full_mask
from layers.sharding import per_device, platform
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class SplashRing:
  """The computation of a ring's devices.

  Attributes:
    ring: the devices.
    own: the kernel for a device's queries and its own keys.
    met: the kernel for its queries, or one chunk of them, and another device's keys.
    compute_dtype: of the products' operands.
  """

  ring: Ring
  own: Kernel
  met: Kernel
  compute_dtype: str

  @classmethod
  def of(cls, core: SplashAttention, ring: Ring, request: AttentionRequest) -> "SplashRing":
    """For rows that attend to themselves; the mask is causal or full."""
    length, num_heads = request.query.shape[1:3]
    chunk = math.ceil(length / (2 * ring.size))
    query_block = splash_kernels.block(core.query_block, chunk)
    key_block = splash_kernels.block(core.key_block, chunk)
    chunk += -chunk % math.lcm(query_block, key_block)
    blocks = (query_block, key_block, platform() == "cpu")
    own = Kernel(request.mask, num_heads, 2 * chunk, 2 * chunk, *blocks)
    met = own
    if request.mask is not full_mask:
      met = Kernel(full_mask, num_heads, chunk, chunk, *blocks)
    return cls(ring, own, met, request.compute_dtype)

  def __call__(self, request: AttentionRequest) -> jax.Array:
    """Attention of rows [B, rows' length, N, H] to themselves; float32."""
    length, multiple = request.query.shape[1], self.ring.size * self.own.num_queries
    query, key, value, tokens = rows_filled(*request.operands[:4], multiple)
    local = per_device(functools.partial(_attend_locally, self), *SPLIT_ROWS)
    return local(query, key, value, tokens, tokens)[:, :length]

  def for_heads(self, num_heads: int) -> "SplashRing":
    """The same for the `num_heads` query heads of one device."""
    own, met = (dataclasses.replace(x, num_heads=num_heads) for x in (self.own, self.met))
    return dataclasses.replace(self, own=own, met=met)


def _attend_locally(steps: SplashRing, query, key, value, tokens: Tokens, _) -> jax.Array:
  """One device's attention, [B, T, N, H], for its part of the row in plain order."""
  zigzag = functools.partial(steps.ring.zigzag, axis=1)
  heads = (query * query.shape[-1] ** -0.5, key, value)
  heads = (by_head(zigzag(x)) for x in heads)
  steps = steps.for_heads(query.shape[2])
  mixed = cast(jax.Array, _attend(steps, *heads, zigzag(tokens.segments)))
  return steps.ring.plain(by_head(mixed), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(steps, query, key, value, segments):
  return _forward(steps, query, key, value, segments)[0]


def _forward(steps, query, key, value, segments):
  dtype, ring = dtypes.resolve(steps.compute_dtype), steps.ring
  operands = tuple(x.astype(dtype) for x in (query, key, value))

  def meet(source, part, none, held):
    key, value, key_segments = held
    queries = operands[0], segments
    if source is None:
      return _attend_part(steps.own, queries, (key, value, key_segments)), none
    if steps.met == steps.own:
      return _joined(part, _attend_part(steps.met, queries, held)), none
    is_later = source > ring.here()
    always = _attend_part(steps.met, _chunks(queries, 1), _chunks(held, 0))
    decided = _attend_part(steps.met, _decided(queries, is_later), _decided(held, is_later))
    return _joined_chunks(part, always, decided, is_later), none

  (mixed, log_sum), _ = ring.go_round(meet, None, (), (*operands[1:], segments))
  mixed, log_sum = kept(mixed, log_sum, dtype)
  like = tuple(jnp.empty(0, x.dtype) for x in (query, key, value))
  return mixed.astype(jnp.float32), (operands, segments, mixed, log_sum, like)


def _backward(steps, residuals, gradient):
  operands, segments, mixed, log_sum, like = residuals
  ring, delta = steps.ring, (gradient * mixed).sum(axis=-1)
  queries = operands[0], segments, log_sum, gradient.astype(operands[0].dtype), delta

  def meet(source, dquery, dkeys, held):
    if source is None or steps.met == steps.own:
      found = _gradients(steps.own, queries, held)
    else:
      is_later = source > ring.here()
      always = _gradients(steps.met, _chunks(queries, 1), _chunks(held, 0))
      decided = _decided(queries, is_later), _decided(held, is_later)
      decided = _gradients(steps.met, *decided)
      found = tuple(
        _in_chunks(x, number, y, is_later)
        for x, number, y in zip(always, (1, 0, 0), decided, strict=True)
      )
    return dquery + found[0], tuple(x + y for x, y in zip(dkeys, found[1:], strict=True))

  zeros = tuple(jnp.zeros(x.shape) for x in operands)
  held = (*operands[1:], segments)
  dquery, dkeys = ring.go_round(meet, zeros[0], zeros[1:], held)
  sums = (dquery, *dkeys)
  return *(x.astype(y.dtype) for x, y in zip(sums, like, strict=True)), None


_attend.defvjp(_forward, _backward)


def _attend_part(kernel: Kernel, queries, keys) -> tuple[jax.Array, jax.Array]:
  query, query_segments = queries
  key, value, key_segments = keys
  return kernel.attend_part(query, key, value, query_segments, key_segments)


def _gradients(kernel: Kernel, queries, keys) -> tuple[jax.Array, ...]:
  query, query_segments, *of_queries = queries
  key, value, key_segments = keys
  return kernel.gradients(query, key, value, query_segments, key_segments, *of_queries)


def _length_axis(x: jax.Array) -> int:
  """The axis T of heads [B, N, T, ...] or segments [B, T]."""
  return 1 if x.ndim == 2 else 2


def _chunks(arrays, number: int) -> tuple[jax.Array, ...]:
  """The first (0) or second (1) half of each array."""
  return tuple(jnp.split(x, 2, axis=_length_axis(x))[number] for x in arrays)


def _decided(arrays, is_later: jax.Array) -> tuple[jax.Array, ...]:
  """The halves that meet the same half of the source: the second if it is later, else first."""
  halves = zip(_chunks(arrays, 0), _chunks(arrays, 1), strict=True)
  return tuple(jnp.where(is_later, second, first) for first, second in halves)


def _in_chunks(
  always: jax.Array, number: int, decided: jax.Array, is_later: jax.Array
) -> jax.Array:
  """[B, heads, T, H]: the sum of results for half `number` and for the decided half."""
  chunks = [jnp.where(is_later, 0.0, decided), jnp.where(is_later, decided, 0.0)]
  chunks[number] += always
  return jnp.concatenate(chunks, axis=2)


def _joined_chunks(part, always, decided, is_later: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`part` [B, N, T, ...] joined with the results for the second and the decided half."""
  mixed, log_sum = decided
  first = _joined(_chunks(part, 0), (mixed, jnp.where(is_later, LOWEST, log_sum)))
  second = _joined(_chunks(part, 1), (mixed, jnp.where(is_later, log_sum, LOWEST)))
  second = _joined(second, always)
  mixed, log_sum = (jnp.concatenate(xs, axis=2) for xs in zip(first, second, strict=True))
  return mixed, log_sum


def _joined(part, more) -> tuple[jax.Array, jax.Array]:
  """Attention and log sum exp over the keys of both parts."""
  log_sum = jnp.logaddexp(part[1], more[1])
  share = lambda x: x[0] * jnp.exp(x[1] - log_sum)[..., None]
  return share(part) + share(more), log_sum
