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

On an accelerator reading a tensor takes longer than a few operations on each of its elements.
So "none" computes again there what is that cheap (norms, activation functions, conversions),
and keeps what they read, in the dtype in which it passes from layer to layer. On CPU it keeps
all.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

from layers.errors import UserError
from layers.sharding import platform
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

# cuDNN's attention, whose output and log of its sums have no names of ours.
_KERNELS = ("dot_product_attention_fwd", "dot_product_attention_fwd_wrapper")


def _keeps_kernels(primitive: Any, *_: Any, **__: Any) -> bool:
  return primitive.name in _KERNELS


_KEEPS_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_KEEPS_ATTENTION = jax.checkpoint_policies.save_from_both_policies(
  jax.checkpoint_policies.save_only_these_names("attention"), _keeps_kernels
)

# One operation or a few on each element of what is read, or only another view of it.
_CHEAP = frozenset(
  "abs add and broadcast_in_dim clamp concatenate convert_element_type copy cos div eq erf "
  "erfc exp exp2 expand_dims expm1 floor ge gt integer_pow iota is_finite le log log1p "
  "logistic lt max min mul ne neg not one_minus_square or pad pow reduce_max "
  "reduce_precision reduce_sum rem reshape rsqrt select_n sharding_constraint sign sin "
  "slice split sqrt square squeeze stop_gradient sub tanh transpose".split()
)
_CHEAP_TENSORS = ("attention_norm", "feed_forward_norm", "hidden")


def _keeps_what_is_dear(primitive: Any, *_: Any, **options: Any) -> bool:
  if primitive.name == "name":
    return options["name"] not in _CHEAP_TENSORS
  return primitive.name not in _CHEAP


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
    policy: "none" keeps everything (see above), "minimal" products with weights and attention's
      output, "dots" products with weights, "save_attention" attention's output, "full" nothing.
    in_scan: a scan's body is compiled separately, so XLA cannot merge the recomputation with
      the first computation, and no barrier against that is needed.
  """
  if policy == "none":
    if platform() == "cpu":
      return function
    # No barrier: where the compiler would rather keep what is cheap, it may.
    return jax.checkpoint(function, policy=_keeps_what_is_dear, prevent_cse=False)
  keeps = _by_name(policy) if isinstance(policy, Remat) else _POLICIES[policy]
  return jax.checkpoint(function, policy=keeps, prevent_cse=not in_scan)


def _by_name(remat: Remat) -> Callable:
  by_name = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=list(remat.save),
    names_which_can_be_offloaded=list(remat.offload),
    offload_src="device",
    offload_dst="pinned_host",
  )
  # A kernel gives its name to whatever it returns: here it stays on the device.
  keeps_kernels = "attention" in (*remat.save, *remat.offload)

  def keeps(primitive: Any, *arguments: Any, **options: Any) -> Any:
    if keeps_kernels and _keeps_kernels(primitive):
      return True
    return by_name(primitive, *arguments, **options)

  return keeps


def _check_name(name: str, where: str) -> None:
  names = get_args(TensorName)
  if name not in names:
    raise UserError(f"{where}: there is no tensor {name!r}: {did_you_mean(name, names, 2)}")
