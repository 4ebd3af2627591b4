"""Flash attention on NVIDIA's GPUs: cuDNN, through `jax.nn.dot_product_attention`.

The public call supports a causal mask, a window, and an explicit mask for every pair of tokens,
but no segments. Rows of one segment need no explicit mask. Packed rows do; only some queries'
part of it is in memory at a time. On one device a whole step is told which rows it has
(layers/attention_cores/whole_rows.py).

Letters: B batch, T length, C queries at a time, N query heads, K key heads, H head dimension.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from layers import dtypes
from layers.attention_cores.blockwise import BlockwiseAttention, refuse_dropout
from layers.attention_cores.heads_and_rows import WHOLE_ROWS, both_filled
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.whole_rows import are_whole, known_to_be_whole
from layers.errors import UserError
from layers.masks import Mask, SlidingWindow, causal_mask, full_mask, reach
from layers.ranges import PositiveInt
from layers.sharding import is_split, per_device, platform
from layers.tokens import Tokens

# The compiler of these jax versions crashes on any program with cuDNN attention for several
# GPUs, be it 2 or 64; 0.10.2, 0.11.0, 0.11.1, 0.12.0 and 0.12.0.1 compile it.
_CRASHES_ON_SEVERAL = ("0.11.2",)
# A row is cut into at most so many spans; a span's queries get only keys within their reach.
_MOST_SPANS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class CudnnAttention:
  """Exact attention in cuDNN's kernels, in bfloat16.

  If each row has one segment, and the mask is causal, full or a window, no mask is stored.
  Where tokens see none after them, padding may follow. Otherwise a mask exists for
  `query_block` queries at a time, two bytes for each pair of tokens, and the weights are
  computed again in the backward pass: memory stays linear in the length. If keys have other
  tokens than queries (generation), it is blockwise.

  Attributes:
    query_block: tokens, a multiple of 64; at most the padded length is used.
  """

  query_block: PositiveInt = 1024

  def __post_init__(self):
    if self.query_block < 64 or self.query_block % 64:
      raise UserError(f"{self}: query_block is not a multiple of 64")

  def __call__(self, request: AttentionRequest) -> jax.Array:
    """See `AttentionCore`.

    Raises:
      UserError: dropout of the attention weights, or a reason given by `refusal`.
    """
    refuse_dropout(request, "CudnnAttention")
    if not request.same_tokens:
      return BlockwiseAttention()(request)
    if why := refusal(request.query.shape[-1], request.compute_dtype):
      raise UserError(f"CudnnAttention {why} (core=@BlockwiseAttention() runs anywhere)")
    run = functools.partial(dot_product, "cudnn", request.compute_dtype)
    attend_here = functools.partial(attend, run, request.mask, self.query_block)
    return per_device(attend_here, *WHOLE_ROWS)(*request.operands)


def refusal(head_dim: int, compute_dtype: str) -> str | None:
  """Why cuDNN cannot compute heads of `head_dim` features here, with the cure; None: it can."""
  if platform() != "gpu":
    return f"runs on NVIDIA's GPUs, not on {platform()}"
  if compute_dtype == "float32":
    return "has no float32: set precision.compute_dtype=bfloat16"
  most = _most_head_dim()
  if head_dim % 8 or head_dim > most:
    return (
      f"has no heads of {head_dim} features: choose a head_dim that is a multiple of 8, and at "
      f"most {most} (JAX takes 256 where it finds a GPU of Hopper or later, else 128)"
    )
  if not is_installed():
    return "finds no cuDNN: pip install 'strata[gpu]'"
  if is_split() and jax.__version__ in _CRASHES_ON_SEVERAL:
    return (
      f"ends the compiler of jax {jax.__version__} where there are several devices: install "
      "another version of jax"
    )
  return None


def is_installed() -> bool:
  """Whether cuDNN can be loaded, by JAX's own test, which needs no device."""
  try:
    from jax._src.lib import cuda_versions
  except ImportError:
    return False
  if cuda_versions is None:  # no CUDA plugin
    return False
  try:
    return cuda_versions.cudnn_get_version() > 0
  except RuntimeError:  # the plugin without cuDNN
    return False


def _most_head_dim() -> int:
  """JAX's limit. It depends on this process's first GPU, even when compiling for others."""
  if jax.default_backend() != "gpu":
    return 128
  device = jax.local_devices(backend="gpu")[0]
  if "cuda" not in device.client.platform_version:
    return 128
  capability = tuple(int(x) for x in device.compute_capability.split("."))
  return 256 if capability >= (9, 0) else 128


def attend(
  run: Callable[..., jax.Array],
  mask: Mask,
  query_block: int,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
) -> jax.Array:
  """One device's attention, for all its rows and heads, [B, T, N, H] float32.

  Args:
    run: `dot_product` of an implementation and a dtype.
    mask: who may attend to whom.
    query_block: C at most.
    query, key, value, query_tokens, key_tokens: as in `AttentionRequest`.
  """
  operands = query, key, value, query_tokens, key_tokens
  masked = functools.partial(_attend_masked, run, mask, query_block)
  if mask not in (causal_mask, full_mask) and not isinstance(mask, SlidingWindow):
    return masked(*operands)
  without_padding = mask is full_mask
  is_whole = known_to_be_whole(without_padding=without_padding)
  whole = functools.partial(_attend_whole, run, mask)
  if is_whole is not None:
    return whole(*operands) if is_whole else masked(*operands)
  is_whole = are_whole(query_tokens.segments, without_padding=without_padding)
  return jax.lax.cond(is_whole, whole, masked, *operands)


def dot_product(
  implementation, compute_dtype: str, query, key, value, **options: Any
) -> jax.Array:
  """`jax.nn.dot_product_attention` of `implementation`, on operands of a dtype; float32."""
  heads = (x.astype(dtypes.resolve(compute_dtype)) for x in (query, key, value))
  out = jax.nn.dot_product_attention(*heads, implementation=implementation, **options)
  return out.astype(jnp.float32)


def _attend_whole(run, mask, query, key, value, query_tokens, key_tokens) -> jax.Array:
  """Attention of rows with one segment each; tokens that it may not see come after."""
  window = (mask.size - 1, 0) if isinstance(mask, SlidingWindow) else None
  return run(query, key, value, is_causal=mask is not full_mask, local_window_size=window)


def _attend_masked(
  run, mask, query_block, query, key, value, query_tokens, key_tokens
) -> jax.Array:
  """Attention of any rows, span by span with the keys in reach, C queries at a time."""
  length = query.shape[1]
  block = min(query_block, length + -length % 64)
  rows = both_filled(query, key, value, query_tokens, key_tokens, (block, block))
  mixed = _attend_blocks(run, mask, block, *rows)
  return cast(jax.Array, mixed)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend_blocks(run, mask, block, query, key, value, query_tokens, key_tokens):
  mixed = []
  for queries, keys in _spans(mask, block, query.shape[1]):
    attend_block = _block_attention(run, mask, _cut(key_tokens, keys))
    blocks = _in_blocks(query, query_tokens, queries, block)
    heads = key[:, keys], value[:, keys]
    parts = jax.lax.map(lambda xs, f=attend_block, kv=heads: f(*xs, *kv), blocks)
    mixed.append(_from_blocks(parts))
  return jnp.concatenate(mixed, axis=1)


def _forward(run, mask, block, *operands):
  return _attend_blocks(run, mask, block, *operands), operands


def _backward(run, mask, block, operands, gradient):
  query, key, value, query_tokens, key_tokens = operands
  # Gradients of the keys add up in float32, span after span in the same memory.
  dquery, dkey, dvalue = [], jnp.zeros(key.shape), jnp.zeros(value.shape)
  for queries, keys in _spans(mask, block, query.shape[1]):
    attend_block = _block_attention(run, mask, _cut(key_tokens, keys))
    heads = key[:, keys], value[:, keys]

    def step(sums, xs, attend_block=attend_block, heads=heads):
      (query, positions, segments), gradient = xs
      f = lambda query, *heads: attend_block(query, positions, segments, *heads)
      found = jax.vjp(f, query, *heads)[1](gradient)
      return tuple(x + y for x, y in zip(sums, found[1:], strict=True)), found[0]

    blocks = _in_blocks(query, query_tokens, queries, block)
    parts = blocks, _to_blocks(gradient[:, queries], block)
    sums, found = jax.lax.scan(step, (dkey[:, keys], dvalue[:, keys]), parts)
    dkey, dvalue = dkey.at[:, keys].set(sums[0]), dvalue.at[:, keys].set(sums[1])
    dquery.append(_from_blocks(found))
  gradients = jnp.concatenate(dquery, axis=1), dkey, dvalue
  return *(x.astype(y.dtype) for x, y in zip(gradients, operands[:3], strict=True)), None, None


_attend_blocks.defvjp(_forward, _backward)


def _spans(mask: Mask, block: int, total: int) -> list[tuple[slice, slice]]:
  """(queries, keys they may see), both slices in whole blocks, which cover a row of `total`."""
  behind, ahead = reach(mask)
  spans = []
  step = -(-total // block // _MOST_SPANS) * block
  for start in range(0, total, step):
    stop = min(start + step, total)
    first = 0 if behind is None else max(0, start - behind) // block * block
    last = total if ahead is None else min(total, -(-(stop + ahead) // block) * block)
    spans.append((slice(start, stop), slice(first, last)))
  return spans


def _block_attention(run, mask: Mask, key_tokens: Tokens) -> Callable[..., jax.Array]:
  """Attention of a block of queries to the keys of `key_tokens`."""

  def attend_block(query, positions, segments, key, value):
    allowed = mask(Tokens(positions, segments, key_tokens.rows), key_tokens)
    mixed = run(query, key, value, mask=allowed[:, None])
    # cuDNN gives the mean of all values to a query that may see none.
    return jnp.where(allowed.any(axis=-1)[..., None, None], mixed, 0.0)

  return attend_block


def _in_blocks(query: jax.Array, tokens: Tokens, queries: slice, block: int):
  """Query, positions and segments of a span, [blocks, B, C, ...] each."""
  arrays = (query, tokens.positions, tokens.segments)
  return tuple(_to_blocks(x[:, queries], block) for x in arrays)


def _to_blocks(x: jax.Array, block: int) -> jax.Array:
  """[B, T, ...] as [T / C, B, C, ...]."""
  return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def _from_blocks(x: jax.Array) -> jax.Array:
  """[T / C, B, C, ...] as [B, T, ...]."""
  return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def _cut(tokens: Tokens, which: slice) -> Tokens:
  return Tokens(tokens.positions[:, which], tokens.segments[:, which], tokens.rows)
