"""Which tensors are kept for the backward pass, recomputed, or offloaded to host memory.

Layers name tensors worth keeping (`named`); a policy chooses among them, for every layer.
Letters: B batch, T length, D model dimension, F hidden dimension, N and K heads of H features.

  block_input                         [B, T, D] the stream, as a block receives it
  attention_norm, feed_forward_norm   [B, T, D] the inputs of a block's two halves
  attention_out, feed_forward_out     [B, T, D] the outputs added to the stream
  query, key, value                   [B, T, N or K, H] as the core receives them
  attention                           [B, T, N, H] the core's output; for cores that work by
                                      blocks also the log of its sums, [B, T, N] float32
  gate, up                            [B, T, F] projections of the feed-forward
  hidden                              [B, T, F] the input of the feed-forward's last projection
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
  """Keeps the named tensors of every layer; all other tensors are computed again.

  A layer's input is always kept on the device, unless "block_input" is offloaded.

  Attributes:
    save: names of tensors kept on the device.
    offload: names of tensors kept in host memory, from which the backward pass fetches them. On
      CPU, where the memories are the same, it equals `save`.
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
  # Keeps products with weights and attention's output: only the scores are computed again.
  "minimal": jax.checkpoint_policies.save_from_both_policies(_KEEPS_PRODUCTS, _KEEPS_ATTENTION),
  # Keeps products with weights; attention and elementwise work are computed again.
  "dots": _KEEPS_PRODUCTS,
  # Keeps each block's input and attention's output, the costliest part for long rows.
  "save_attention": _KEEPS_ATTENTION,
  # Keeps only each block's input.
  "full": None,
}


def named(x: jax.Array, name: str) -> jax.Array:
  """x under a name by which a `Remat` can keep it; the name must be one of `TensorName`."""
  _check_name(name, "a layer's tensor")
  return cast(jax.Array, checkpoint_name(x, name))


def rematerialized(function: Callable, policy: RematPolicy, *, in_scan: bool) -> Callable:
  """`function` whose intermediates are kept or recomputed as `policy` says.

  Args:
    function: of arrays.
    policy: "none" keeps everything, "minimal" products with weights and attention's output,
      "dots" products with weights, "save_attention" attention's output, "full" nothing.
    in_scan: a scan's body is compiled separately, so XLA cannot merge the recomputation with
      the first computation, and no barrier against that is needed.
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
