"""What the backward pass keeps, what it computes again, and what waits for it in host memory.

Layers name what is worth keeping (`named`); a policy says which of it is kept, in every layer.
Letters: B batch, T length, D model dimension, F hidden dimension, N and K heads of H features.

  block_input                         [B, T, D] the stream, as a block gets it
  attention_norm, feed_forward_norm   [B, T, D] what the two halves of a block read
  attention_out, feed_forward_out     [B, T, D] what they add to the stream
  query, key, value                   [B, T, N or K, H] as the core gets them
  attention                           [B, T, N, H] what the core gives; of a core that works
                                      by blocks also the log of its sums, [B, T, N] float32
  gate, up                            [B, T, F] projections of the feed-forward
  hidden                              [B, T, F] what the feed-forward projects back
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, cast, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

from layers.errors import UserError
from layers.suggestions import did_you_mean

TensorName = Literal[
  "block_input",
  "attention_norm",
  "query",
  "key",
  "value",
  "attention",
  "attention_out",
  "feed_forward_norm",
  "gate",
  "up",
  "hidden",
  "feed_forward_out",
]

PolicyName = Literal["none", "minimal", "dots", "save_attention", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remat:
  """Keeps the named tensors of every layer; all others are computed again.

  The input of a layer is kept anyway, unless "block_input" is offloaded.

  Attributes:
    save: kept on the device.
    offload: kept in the host's memory, from which the backward pass fetches them. On CPU, where
      the two are one, the same as `save`.
  """

  save: tuple[TensorName, ...] = ()
  offload: tuple[TensorName, ...] = ()

  def __post_init__(self):
    for field in ("save", "offload"):
      for name in getattr(self, field):
        _check_name(name, f"Remat.{field}")
    if both := sorted(set(self.save) & set(self.offload)):
      raise UserError(f"Remat keeps {', '.join(both)} in two places: save it or offload it")


RematPolicy = PolicyName | Remat

_KEEPS_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_KEEPS_ATTENTION = jax.checkpoint_policies.save_only_these_names("attention")

_POLICIES: dict[str, Callable | None] = {
  # Products with weights and what attention gave: no product but the scores is done again.
  "minimal": jax.checkpoint_policies.save_from_both_policies(_KEEPS_PRODUCTS, _KEEPS_ATTENTION),
  # Products with weights; attention and what is elementwise is computed again.
  "dots": _KEEPS_PRODUCTS,
  # The input of each block and what attention gave, which at length costs most to compute.
  "save_attention": _KEEPS_ATTENTION,
  # Only the input of each block.
  "full": None,
}


def named(x: jax.Array, name: str) -> jax.Array:
  """x, which a `Remat` can keep by this name; the name has to be one of `TensorName`."""
  _check_name(name, "a layer's tensor")
  return cast(jax.Array, checkpoint_name(x, name))


def rematerialized(function: Callable, policy: RematPolicy, *, in_scan: bool) -> Callable:
  """`function` whose intermediates are kept or recomputed as `policy` says.

  Args:
    function: of arrays.
    policy: "none" keeps everything, "minimal" products with weights and what attention gave,
      "dots" products with weights, "save_attention" what attention gave, "full" nothing.
    in_scan: a scan's body is compiled apart, so nothing can be merged across the
      recomputation and the barrier against it is left out.
  """
  if policy == "none":
    return function
  keeps = _by_name(policy) if isinstance(policy, Remat) else _POLICIES[policy]
  return jax.checkpoint(function, policy=keeps, prevent_cse=not in_scan)


def _by_name(remat: Remat) -> Callable:
  return jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=list(remat.save),
    names_which_can_be_offloaded=list(remat.offload),
    offload_src="device",
    offload_dst="pinned_host",
  )


def _check_name(name: str, where: str) -> None:
  names = get_args(TensorName)
  if name not in names:
    raise UserError(f"{where}: there is no tensor {name!r}: {did_you_mean(name, names, 2)}")
