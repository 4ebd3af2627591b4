"""What the backward pass keeps and what it computes again."""

from collections.abc import Callable
from typing import Literal

import jax

RematPolicy = Literal["none", "dots", "full"]

_POLICIES: dict[str, Callable | None] = {
  # Outputs of products with weights are kept; attention scores and elementwise are not.
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  # Only the input of each block is kept.
  "full": None,
}


def rematerialized(function: Callable, policy: RematPolicy, *, in_scan: bool) -> Callable:
  """`function` whose intermediates are kept or recomputed as `policy` says.

  Args:
    function: of arrays.
    policy: "none" keeps everything, "dots" keeps products with weights, "full" nothing.
    in_scan: a scan's body is compiled apart, so nothing can be merged across the
      recomputation and the barrier against it is left out.
  """
  if policy == "none":
    return function
  return jax.checkpoint(function, policy=_POLICIES[policy], prevent_cse=not in_scan)
