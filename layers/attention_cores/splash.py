"""Flash attention on TPU: the splash kernels of JAX (Pallas).

Letters: B batch, T length, N query heads, K key heads, H head dimension.
"""

import dataclasses
import functools
import math

import jax

from layers import dtypes
from layers.attention_cores import splash_kernels
from layers.attention_cores.blockwise import BlockwiseAttention, refuse_dropout
from layers.attention_cores.heads_and_rows import WHOLE_ROWS, by_head, rows_filled
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.splash_kernels import Kernel
from layers.errors import UserError
from layers.masks import Mask
from layers.ranges import PositiveInt
from layers.sharding import on_mesh, per_device, platform
from layers.tokens import Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplashAttention:
  """One kernel for scores, softmax and mean; its backward pass computes the weights again.

  Memory is linear in the length, and blocks beyond the mask's reach are skipped. Grouped heads
  share their keys. On CPU the kernel is interpreted, slowly: for tests. If keys have other
  tokens than queries (generation), it is blockwise.

  Attributes:
    query_block, key_block: tokens, multiples of 128; at most the padded length is used. A
      length that is no multiple is padded.
  """

  query_block: PositiveInt = 512
  key_block: PositiveInt = 512

  def __post_init__(self):
    splash_kernels.check_block(self.query_block, self)
    splash_kernels.check_block(self.key_block, self)

  def __call__(self, request: AttentionRequest) -> jax.Array:
    """See `AttentionCore`.

    Raises:
      UserError: dropout of the attention weights, an unsupported mask, or a GPU.
    """
    refuse_dropout(request, "SplashAttention")
    by_blocks = BlockwiseAttention(query_block=self.query_block, key_block=self.key_block)
    if not request.same_tokens:
      return by_blocks(request)
    if not splash_kernels.is_known(request.mask):
      raise UserError(
        f"SplashAttention does not know the mask {request.mask}: take "
        "core=@BlockwiseAttention(), which honours any"
      )
    refuse_gpu("core=@CudnnAttention()")
    if not on_mesh() and platform() == "tpu":  # only shapes are wanted: no kernel is made
      return by_blocks(request)
    attend = functools.partial(_attend_locally, self, request.mask, request.compute_dtype)
    return per_device(attend, *WHOLE_ROWS)(*request.operands)


def refuse_gpu(cure: str) -> None:
  """Raises UserError on a GPU; `cure` names the core to take there."""
  if platform() == "gpu":
    raise UserError(f"SplashAttention runs on TPU: on a GPU take {cure}")


def _attend_locally(
  core: SplashAttention,
  mask: Mask,
  compute_dtype: str,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  query_tokens: Tokens,
  key_tokens: Tokens,
) -> jax.Array:
  """One device's attention, for all its rows and heads, [B, T, N, H]."""
  length, num_heads, head_dim = query.shape[1:]
  query_block = splash_kernels.block(core.query_block, length)
  key_block = splash_kernels.block(core.key_block, length)
  multiple = math.lcm(query_block, key_block)
  query, key, value, tokens = rows_filled(query, key, value, query_tokens, multiple)
  kernel = Kernel(
    mask,
    num_heads,
    query.shape[1],
    key.shape[1],
    query_block,
    key_block,
    interpret=platform() == "cpu",
  )
  dtype = dtypes.resolve(compute_dtype)
  query, key, value = (by_head(x).astype(dtype) for x in (query * head_dim**-0.5, key, value))
  return by_head(kernel.attend(query, key, value, tokens))[:, :length].astype("float32")
