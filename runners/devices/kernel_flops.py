"""FLOPs of Pallas and cuDNN kernels in a jaxpr, without what their masks let them skip.

A Pallas kernel runs its program at every place of a grid. Where it asks a table of blocks
whether to compute (splash attention), the table's values decide; any other choice within a
kernel counts as if it always computed.

Letters: B batch, T query length, S key length, N heads, H head dimension.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from layers.attention_cores.splash_kernels import share_of_blocks

# Products of [T, S] scores with H features: of weights and of the mean of values; going back,
# the weights again, and the gradients of weights, queries, keys and values.
_PRODUCTS = {"fwd": 2, "bwd": 5}


class KernelFlops(NamedTuple):
  """A Pallas kernel.

  Attributes:
    name: its own.
    shapes: of its results.
    flops: of one call on one device.
  """

  name: str
  shapes: tuple[tuple[int, ...], ...]
  flops: int


def pallas(equation: Any, flops_at_a_place: int, known: Mapping[Any, Any]) -> KernelFlops:
  """A `pallas_call`.

  Args:
    equation: of a jaxpr.
    flops_at_a_place: FLOPs of its program at one place of the grid.
    known: variable -> value, of constants of the program.
  """
  mapping, name = equation.params["grid_mapping"], _name(equation)
  tables = [
    None if hasattr(variable, "val") else known.get(variable)
    for variable in equation.invars[: mapping.num_index_operands]
  ]
  places = math.prod(mapping.grid)
  running = places * share_of_blocks(name, tables)
  shapes = tuple(tuple(variable.aval.shape) for variable in equation.outvars)
  return KernelFlops(name, shapes, round(running * flops_at_a_place))


def attention(equation: Any) -> int | None:
  """FLOPs of one of cuDNN's attention primitives; None for anything else."""
  name, params = equation.primitive.name, equation.params
  which = next((way for way in _PRODUCTS if f"dot_product_attention_{way}" in name), None)
  if which is None or "mask_type" not in params:
    return None
  query, key = (variable.aval.shape for variable in equation.invars[:2])
  length, heads = (1, 2) if params["layout"] == 0 else (2, 1)
  causal = "CAUSAL" in str(getattr(params["mask_type"], "name", params["mask_type"]))
  window = params.get("sliding_window_length")
  pairs = attended_pairs(query[length], key[length], causal=causal, window=window)
  return attention_flops(query[0], query[heads], pairs, query[3], _PRODUCTS[which])


def attended_pairs(
  num_queries: int, num_keys: int, *, causal: bool, window: int | None = None
) -> int:
  """The pairs of query and key that a mask allows.

  Args:
    num_queries, num_keys: T and S; the first query is at the first key's place.
    causal: a query reads no later key.
    window: a query reads only so many keys, its own among them; None: no window.
  """
  if not causal and not window:
    return num_queries * num_keys
  places = np.arange(1, num_queries + 1, dtype=np.int64)
  last = np.minimum(places, num_keys)
  first = np.maximum(places - window, 0) if window else 0
  return int(np.maximum(last - first, 0).sum())


def attention_flops(batch: int, heads: int, pairs: int, head_dim: int, products: int) -> int:
  """FLOPs of so many products with the scores of `pairs`."""
  return products * 2 * batch * heads * pairs * head_dim


def _name(equation: Any) -> str:
  """Releases of jax hold a kernel's name in different parameters."""
  params = equation.params
  if name := params.get("name"):
    return name
  info = params.get("name_and_src_info")
  return getattr(info, "name", "") or "a kernel"
