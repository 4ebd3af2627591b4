"""The argument of attention cores: one object, so that a new field changes no signature.

Letters: B batch, T query length, S key length, N query heads, K key heads, H head dimension.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax

from layers.dropout import Drop
from layers.errors import UserError
from layers.masks import Mask, causal_mask
from layers.tokens import Tokens


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class AttentionRequest:
  """Queries that ask for a weighted mean of values.

  A pytree of its arrays; mask and dtype are static. To choose a core, query, key and value may
  be `jax.ShapeDtypeStruct`s.

  Attributes:
    query: [B, T, N, H], not yet scaled.
    key, value: [B, S, K, H]; K divides N, query head n reads key head n // (N / K).
    query_tokens, key_tokens: coordinates from which `mask` decides who attends to whom; the
      same object if rows attend to themselves: see `same_tokens`.
    mask: (query tokens, key tokens) -> [B, T, S], True where attention is allowed.
    compute_dtype: dtype of the products' operands.
    drop_weights: dropout of [B, ...] attention weights; None: no dropout.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array
  query_tokens: Tokens
  key_tokens: Tokens
  mask: Mask = causal_mask
  compute_dtype: str = "float32"
  drop_weights: Drop | None = None

  @property
  def same_tokens(self) -> bool:
    """Whether rows attend to themselves: token i of the keys is token i of the queries.

    If not (generation), a key's place in its row means nothing.
    """
    return self.query_tokens is self.key_tokens

  @property
  def operands(self) -> tuple[jax.Array, jax.Array, jax.Array, Tokens, Tokens]:
    """Query, key, value, query coordinates and key coordinates."""
    return self.query, self.key, self.value, self.query_tokens, self.key_tokens

  def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Its arrays, and its static fields; `same_tokens` survives the round trip."""
    key_tokens = None if self.same_tokens else self.key_tokens
    arrays = (self.query, self.key, self.value, self.query_tokens, key_tokens)
    return (*arrays, self.drop_weights), (self.mask, self.compute_dtype)

  @classmethod
  def tree_unflatten(cls, static: tuple[Any, ...], children: tuple[Any, ...]) -> Any:
    """The inverse of `tree_flatten`."""
    query, key, value, query_tokens, key_tokens, drop_weights = children
    key_tokens = query_tokens if key_tokens is None else key_tokens
    mask, compute_dtype = static
    heads = query, key, value
    return cls(*heads, query_tokens, key_tokens, mask, compute_dtype, drop_weights)


def attend_with(core: Callable[..., jax.Array], request: AttentionRequest) -> jax.Array:
  """The core's answer to a request, [B, T, N, H] float32.

  Raises:
    UserError: the core has the older signature, without requests.
  """
  if not _takes_a_request(core):
    name = core_name(core)
    raise UserError(
      f"the attention core {name} does not take one AttentionRequest, as all cores do now: "
      "write `def core(request)`, or `def __call__(self, request)`, and read request.query, "
      ".key, .value, .query_tokens, .key_tokens, .mask, .compute_dtype and .drop_weights, "
      "which were arguments before (layers/attention_cores/request.py)"
    )
  return core(request)


def core_name(core: Callable[..., jax.Array]) -> str:
  """A function's own name, or an object's class name."""
  return getattr(core, "__name__", type(core).__name__)


def _takes_a_request(core: Callable[..., jax.Array]) -> bool:
  signature = inspect.signature(core)
  try:
    signature.bind(None)
  except TypeError:
    return False
  # `def core(query, *others, **options)` would mistake a request for a query.
  return next(iter(signature.parameters)) != "query" or len(signature.parameters) == 1
