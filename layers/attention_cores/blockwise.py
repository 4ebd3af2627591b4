"""Attention in memory linear in the length (Liu and Abbeel, 2023, https://arxiv.org/abs/2305.19370).

Letters: B batch, T query length, S key length, N query heads, K key heads, G = N / K, H head
dimension.
"""

import dataclasses
import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from layers import dtypes
from layers.attention_cores import block_pairs as attention_blocks
from layers.attention_cores.block_pairs import Blocks, Side
from layers.attention_cores.heads_and_rows import (
  WHOLE_ROWS,
  both_filled,
  by_head,
  by_key_head,
  by_token,
)
from layers.attention_cores.online_softmax import Gradients, Partial, kept
from layers.attention_cores.request import AttentionRequest
from layers.errors import UserError
from layers.ranges import PositiveInt
from layers.sharding import per_device
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockwiseAttention:
  """Online softmax over blocks, whose backward pass computes the weights again.

  The backward pass keeps the operands, the output and one number for each query and head. Pairs
  of blocks in which the mask allows nothing are skipped.

  Attributes:
    query_block, key_block: tokens in a block; at most the length is used.
  """

  query_block: PositiveInt = 512
  key_block: PositiveInt = 512

  def __post_init__(self):
    if min(self.query_block, self.key_block) < 1:
      raise UserError(f"{self}: blocks have at least one token")

  def __call__(self, request: AttentionRequest) -> jax.Array:
    """See `AttentionCore`.

    Raises:
      UserError: dropout of the attention weights, since no block sees all of them.
    """
    refuse_dropout(request, "BlockwiseAttention")
    blocks = Blocks(
      min(self.query_block, request.query.shape[1]),
      min(self.key_block, request.key.shape[1]),
      request.mask,
      request.compute_dtype,
    )
    attend = functools.partial(_attend_locally, blocks, request.same_tokens)
    return per_device(attend, *WHOLE_ROWS)(*request.operands)


def refuse_dropout(request: AttentionRequest, core: str) -> None:
  """Raises UserError if attention weights are to be dropped."""
  if request.drop_weights is not None:
    raise UserError(
      f"{core} has no dropout of attention weights: set the attention's dropout_rate to 0, or "
      "core=@dense_attention"
    )


def _attend_locally(
  blocks: Blocks,
  in_order: bool,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
) -> jax.Array:
  """What one device computes: all of its rows and heads, [B, T, N, H].

  Args:
    blocks: how it is cut.
    in_order: whether keys stand in the queries' order, so that pairs can be left out unseen.
    query, key, value, query_tokens, key_tokens: as in `AttentionRequest`.
  """
  length = query.shape[1]
  query, key, value, query_tokens, key_tokens = both_filled(
    query, key, value, query_tokens, key_tokens, (blocks.query, blocks.key)
  )
  heads = by_key_head(query, key.shape[2]), by_head(key), by_head(value)
  mixed = cast(jax.Array, _attend(blocks, in_order, *heads, query_tokens, key_tokens))
  return by_token(mixed)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(blocks, in_order, query, key, value, query_tokens, key_tokens):
  return _forward(blocks, in_order, query, key, value, query_tokens, key_tokens)[0]


def _forward(blocks, in_order, query, key, value, query_tokens, key_tokens):
  dtype = dtypes.resolve(blocks.compute_dtype)
  operands = tuple(x.astype(dtype) for x in (query, key, value))
  places, which = _cuts(query.shape[3], key.shape[2], blocks, in_order)
  queries = Side(operands[:1], query_tokens, places[0])
  keys = Side(operands[1:], key_tokens, places[1])
  part = attention_blocks.attend(Partial.none(query.shape), queries, keys, blocks, which)
  mixed, log_sum = part.finish()
  mixed, log_sum = kept(mixed, log_sum, dtype)
  like = tuple(jnp.empty(0, x.dtype) for x in (query, key, value))
  return mixed.astype(jnp.float32), (operands, query_tokens, key_tokens, mixed, log_sum, like)


def _backward(blocks, in_order, residuals, gradient):
  operands, query_tokens, key_tokens, mixed, log_sum, like = residuals
  delta = (gradient * mixed).sum(axis=-1)
  gradient = gradient.astype(operands[0].dtype)
  places, which = _cuts(gradient.shape[3], operands[1].shape[2], blocks, in_order)
  queries = Side((operands[0], log_sum, gradient, delta), query_tokens, places[0])
  keys = Side(operands[1:], key_tokens, places[1])
  zeros = Gradients(*(jnp.zeros(x.shape) for x in operands))
  sums = attention_blocks.gradients(zeros, queries, keys, blocks, which)
  return *(x.astype(y.dtype) for x, y in zip(sums, like, strict=True)), None, None


_attend.defvjp(_forward, _backward)


def pairs(num_queries: int, num_keys: int, blocks: Blocks) -> np.ndarray:
  """[P, 2]: the (query block, key block) pairs of a row within the mask's reach."""
  queries, keys = np.arange(0, num_queries, blocks.query), np.arange(0, num_keys, blocks.key)
  return np.argwhere(attention_blocks.in_reach(queries, keys, blocks))


def _cuts(num_queries: int, num_keys: int, blocks: Blocks, in_order: bool):
  """The places of query and key blocks, and the pairs to compute."""
  queries, keys = np.arange(0, num_queries, blocks.query), np.arange(0, num_keys, blocks.key)
  if in_order:
    return (queries, keys), pairs(num_queries, num_keys, blocks)
  return (None, None), np.argwhere(np.ones((queries.size, keys.size), bool))
