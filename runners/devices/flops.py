"""Counts the floating-point operations of a function by walking its jaxpr.

Only matrix products and convolutions count, at 2 per multiply-add: the convention in which
model FLOPs and MFU are quoted (PaLM, https://arxiv.org/abs/2204.02311, appendix B). Norms,
softmax, embedding look-ups and elementwise work are left out, and causal attention counts in
full, not halved.

    model FLOPs of a training step = 3 x the forward pass   (the backward pass costs two more)
    MFU = model FLOPs per second / (number of devices x peak FLOP/s of one device)

So recomputation by rematerialisation adds no model FLOPs. The compiler's own `cost_analysis` is
no help: it counts the body of a scan once, whatever its length.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Tally:
  """FLOPs of one call, and the loops that prevented an exact count."""

  flops: int
  # Name stacks of loops whose trip count is known only at run time; their bodies count once.
  open_loops: tuple[str, ...] = ()

  def __add__(self, other: "Tally") -> "Tally":
    return Tally(self.flops + other.flops, self.open_loops + other.open_loops)

  def __mul__(self, times: int) -> "Tally":
    return Tally(self.flops * times, self.open_loops)


def count(function: Callable, *arguments: Any) -> int:
  """FLOPs of `function(*arguments)`. Arguments may be abstract (`jax.ShapeDtypeStruct`)."""
  return tally(function, *arguments).flops


def tally(function: Callable, *arguments: Any) -> Tally:
  """As `count`, and lists the loops that could only be counted once."""
  return _tally(jax.make_jaxpr(function)(*arguments).jaxpr)


def tally_traced(traced: jax.stages.Traced) -> Tally:
  """The tally of a function that is already jitted and traced."""
  return _tally(traced.jaxpr.jaxpr)


def train_step_flops(forward: Callable, *arguments: Any) -> int:
  """Model FLOPs of a training step whose loss is `forward(*arguments)`: three forward passes.

  Give it the forward pass of the whole global batch; accumulating over microbatches or
  recomputing activations changes nothing in the result.
  """
  return 3 * count(forward, *arguments)


def programs_within(params: Mapping[str, Any]) -> Iterator[Any]:
  """The programs inside an equation (jit, checkpoint, scan, ...), in whichever parameter.

  A custom derivative holds its primal as a program and its rules as functions, so only the
  primal counts. Programs are recognised by `eqns`, since their classes differ between releases
  of jax.
  """
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      item = getattr(item, "jaxpr", item)  # a ClosedJaxpr wraps a Jaxpr
      if hasattr(item, "eqns"):
        yield item


def _tally(jaxpr: Any) -> Tally:
  return sum((_equation(equation) for equation in jaxpr.eqns), Tally(0))


def _equation(equation: Any) -> Tally:
  """One equation: a product, a construct that repeats or chooses, or a plain call."""
  name, params = equation.primitive.name, equation.params
  if not equation.outvars:  # a leftover of a recomputation whose result is unused
    return Tally(0)
  if name in _PRODUCTS:
    return Tally(_PRODUCTS[name](equation))
  if name == "cond":  # the costliest branch: an upper bound
    return max(
      (_tally(branch) for branch in programs_within(params)), key=lambda branch: branch.flops
    )
  inside = sum((_tally(jaxpr) for jaxpr in programs_within(params)), Tally(0))
  if name == "while" and inside.flops:
    stack = str(equation.source_info.name_stack)
    return inside + Tally(0, (f"{stack}/while" if stack else "while",))
  return inside * _repetitions(name, params)


def _repetitions(name: str, params: Mapping[str, Any]) -> int:
  """How often the program inside an equation runs."""
  if name == "scan":
    return params["length"]
  if name == "shard_map":
    return _shards(params)
  if name == "pallas_call":
    return math.prod(params["grid_mapping"].grid)
  return 1


def _shards(params: Mapping[str, Any]) -> int:
  """Number of devices with different work; along an axis that no spec names all do the same."""
  named = {
    axis
    for spec in (*params["in_specs"], *params["out_specs"])
    for entry in spec
    for axis in (entry if isinstance(entry, tuple) else (entry,))
  }
  return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"] & named)


def _product(lhs: Sequence[int], rhs: Sequence[int], shared: Sequence[int]) -> int:
  """FLOPs of a product: every element of lhs meets rhs along its dimensions not `shared`."""
  free = (size for dimension, size in enumerate(rhs) if dimension not in shared)
  return 2 * math.prod(lhs) * math.prod(free)


def _dot(equation: Any) -> int:
  lhs, rhs = (variable.aval.shape for variable in equation.invars[:2])
  (_, contracting), (_, batch) = equation.params["dimension_numbers"]
  return _product(lhs, rhs, (*contracting, *batch))


def _ragged_dot(equation: Any) -> int:
  """A grouped product: every row meets only the weights of its own group."""
  lhs, rhs = (variable.aval.shape for variable in equation.invars[:2])
  numbers = equation.params["ragged_dot_dimension_numbers"]
  (_, contracting), (_, batch) = numbers.dot_dimension_numbers
  return _product(lhs, rhs, (*contracting, *batch, *numbers.rhs_group_dimensions))


def _convolution(equation: Any) -> int:
  """Every output element sums over its channel's kernel; padding counts as work."""
  kernel = equation.invars[1].aval.shape
  output_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // output_channels


_PRODUCTS: dict[str, Callable[[Any], int]] = {
  "dot_general": _dot,
  "ragged_dot_general": _ragged_dot,
  "conv_general_dilated": _convolution,
}


# Dense bfloat16 FLOP/s (without sparsity) of one device as jax counts devices, by
# `device.device_kind`. Sources: cloud.google.com/tpu/docs, NVIDIA's data sheets.
_TPUS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153.5e12,  # a chip of 2307e12 shows as two devices
}

# CUDA names continue after the model ("NVIDIA H100 80GB HBM3"), so the longest prefix decides.
_GPUS = {
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989.4e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100 NVL": 835e12,
  "NVIDIA H200": 989.4e12,
  "NVIDIA H200 NVL": 835e12,
  "NVIDIA GH200": 989.4e12,
  "NVIDIA B200": 2250e12,
  "NVIDIA GB200": 2500e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Peak dense bfloat16 FLOP/s of one device; None if unknown, as for a CPU."""
  if device_kind in _TPUS:
    return _TPUS[device_kind]
  if " MIG " in device_kind:  # a slice of a GPU, of unknown size
    return None
  models = [
    model for model in _GPUS if f"{device_kind} ".startswith((f"{model} ", f"{model}-"))
  ]
  return _GPUS[max(models, key=len)] if models else None
