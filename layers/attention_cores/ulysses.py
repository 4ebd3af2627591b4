"""Attention over rows split over devices, by trading tokens for heads (DeepSpeed Ulysses,
Jacobs et al., 2023, https://arxiv.org/abs/2309.14509).

Letters: B batch, T length, N query heads, K key heads, H head dimension, R devices of the
sequence axis.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from layers.attention_cores.auto import auto_attention
from layers.attention_cores.blockwise import refuse_dropout
from layers.attention_cores.dense import AttentionCore
from layers.attention_cores.heads_and_rows import SPLIT_ROWS, rows_filled
from layers.attention_cores.request import AttentionRequest, attend_with
from layers.errors import UserError
from layers.sharding import axis_devices, per_device
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class UlyssesAttention:
  """Gives each device all tokens of some heads, instead of some tokens of all heads.

  Each device sends its queries, keys and values once, and gets its part of the result back;
  `RingAttention` sends keys and values R - 1 times, but takes any number of heads. A length
  that R does not divide is padded. If rows are not split, or keys have other tokens than
  queries (generation), it is `core` alone.

  Attributes:
    core: the core for whole rows; it must not need a mesh.
  """

  core: AttentionCore = auto_attention

  def __call__(self, request: AttentionRequest) -> jax.Array:
    """See `AttentionCore`.

    Raises:
      UserError: dropout of the attention weights, heads that the devices do not divide, or a
        request that `core` refuses.
    """
    refuse_dropout(request, "UlyssesAttention")
    axes, size = axis_devices("length", SPLIT_ROWS)
    if size == 1 or not request.same_tokens:
      return attend_with(self.core, request)
    *heads, tokens = rows_filled(*request.operands[:4], size)

    def core(*operands: Any) -> jax.Array:
      asked = AttentionRequest(
        *operands, mask=request.mask, compute_dtype=request.compute_dtype
      )
      return attend_with(self.core, asked)

    local = per_device(functools.partial(_attend_locally, core, axes, size), *SPLIT_ROWS)
    return local(*heads, tokens, tokens)[:, : request.query.shape[1]]


def key_repeats(num_heads: int, num_kv_heads: int, size: int) -> int:
  """The number of copies of each key head with which `size` devices get equally many.

  Raises:
    UserError: `size` does not divide the query heads.
  """
  if num_heads % size:
    raise UserError(
      f"UlyssesAttention: {num_heads} query heads of a device do not divide over {size} "
      "devices of the sequence axis; change num_heads or mesh.sequence, or take "
      "core=@RingAttention()"
    )
  return math.lcm(num_kv_heads, size) // num_kv_heads


def _attend_locally(
  core, axes, size, query, key, value, query_tokens: Tokens, key_tokens: Tokens
) -> jax.Array:
  """One device's attention, [B, T / R, N, H]."""
  repeats = key_repeats(query.shape[2], key.shape[2], size)
  key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))
  to_heads = functools.partial(
    jax.lax.all_to_all, axis_name=axes, split_axis=2, concat_axis=1, tiled=True
  )
  whole = lambda x: jax.lax.all_gather(x, axes, axis=1, tiled=True)
  tokens = Tokens(
    whole(query_tokens.positions), whole(query_tokens.segments), query_tokens.rows
  )
  mixed = core(to_heads(query), to_heads(key), to_heads(value), tokens, tokens)
  # The layer continues in its queries' dtype, so nothing wider need be sent.
  mixed = mixed.astype(query.dtype)
  back = jax.lax.all_to_all(mixed, axes, split_axis=1, concat_axis=2, tiled=True)
  return back.astype(jnp.float32)
