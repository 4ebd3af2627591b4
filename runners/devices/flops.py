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

from runners.devices import kernel_flops
from runners.devices.kernel_flops import KernelFlops


@dataclasses.dataclass(frozen=True)
class Tally:
  """FLOPs of one call, and the loops that prevented an exact count.

  Attributes:
    open_loops: name stacks of loops whose trip count is known only at run time; their bodies
      count once.
    kernels: the Pallas kernels met, with the FLOPs of one call on one device.
  """

  flops: int
  open_loops: tuple[str, ...] = ()
  kernels: frozenset[KernelFlops] = frozenset()

  def __add__(self, other: "Tally") -> "Tally":
    loops, kernels = self.open_loops + other.open_loops, self.kernels | other.kernels
    return Tally(self.flops + other.flops, loops, kernels)

  def __mul__(self, times: int) -> "Tally":
    return dataclasses.replace(self, flops=self.flops * times)


def count(function: Callable, *arguments: Any) -> int:
  """FLOPs of `function(*arguments)`. Arguments may be abstract (`jax.ShapeDtypeStruct`)."""
  return tally(function, *arguments).flops


def tally(function: Callable, *arguments: Any) -> Tally:
  """As `count`, and lists the loops that could only be counted once."""
  return _tally(jax.make_jaxpr(function)(*arguments), {})


def tally_traced(traced: jax.stages.Traced) -> Tally:
  """The tally of a function that is already jitted and traced."""
  return _tally(traced.jaxpr, {})


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
  for program in _closed_or_open(params):
    yield getattr(program, "jaxpr", program)  # a ClosedJaxpr wraps a Jaxpr


def _closed_or_open(params: Mapping[str, Any]) -> Iterator[Any]:
  """The same as they are, a ClosedJaxpr with its constants."""
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if hasattr(getattr(item, "jaxpr", item), "eqns"):
        yield item


# Variables of a program whose values are constants of it; kernels read theirs to skip blocks.
_Known = Mapping[Any, Any]


def _tally(program: Any, known: _Known) -> Tally:
  """Args: program: a Jaxpr, closed or not; known: variable -> value."""
  jaxpr = getattr(program, "jaxpr", program)
  values = {**known, **dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False))}
  return sum((_equation(equation, values) for equation in jaxpr.eqns), Tally(0))


def _equation(equation: Any, known: _Known) -> Tally:
  """One equation: a product, a construct that repeats or chooses, or a plain call."""
  name, params = equation.primitive.name, equation.params
  if not equation.outvars and not equation.effects:
    return Tally(0)  # a leftover of a recomputation whose result is unused
  if name in _PRODUCTS:
    return Tally(_PRODUCTS[name](equation))
  if (attention := kernel_flops.attention(equation)) is not None:
    return Tally(attention)
  programs = [
    _tally(program, _known_within(equation, program, known))
    for program in _closed_or_open(params)
  ]
  if name == "cond":  # the costliest branch: an upper bound
    return max(programs, key=lambda branch: branch.flops)
  inside = sum(programs, Tally(0))
  if name == "pallas_call":
    kernel = kernel_flops.pallas(equation, inside.flops, known)
    return Tally(kernel.flops, inside.open_loops, frozenset([kernel]))
  if name == "while" and inside.flops:
    stack = str(equation.source_info.name_stack)
    return inside + Tally(0, (f"{stack}/while" if stack else "while",))
  return inside * _repetitions(name, params)


def _known_within(equation: Any, program: Any, known: _Known) -> _Known:
  """What is known of the inputs of a program inside an equation."""
  name, params, given = equation.primitive.name, equation.params, equation.invars
  inputs = getattr(program, "jaxpr", program).invars
  if name == "pallas_call":  # its inputs are references
    return {}
  if name == "cond":
    given = given[1:]
  elif name == "scan":
    inputs = inputs[: _num_consts(params)]
  elif name == "while":
    given = given[params["cond_nconsts"] :]
    inputs = inputs[: params["body_nconsts"]]
  elif len(inputs) != len(given):
    return {}
  pairs = zip(inputs, given, strict=False)
  return {inner: known[outer] for inner, outer in pairs if _is_known(outer, known)}


def _num_consts(params: Mapping[str, Any]) -> int:
  """How many of a scan's inputs are the same in every step; they come first."""
  if "num_consts" in params:
    return params["num_consts"]
  constants, _, _ = params["ft_in"].unpack()  # from jax 0.12 on
  return len([*constants])


def _is_known(variable: Any, known: _Known) -> bool:
  return not hasattr(variable, "val") and variable in known  # a literal cannot be hashed


def _repetitions(name: str, params: Mapping[str, Any]) -> int:
  """How often the program inside an equation runs."""
  if name == "scan":
    return params["length"]
  return _shards(params) if name == "shard_map" else 1


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
_PEAKS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153.5e12,  # a chip of 2307e12 shows as two devices
  # CUDA's names continue after the model, as "NVIDIA H100 80GB HBM3": the longest one decides.
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
  return of_device(_PEAKS, device_kind)


def of_device(table: Mapping[str, float], device_kind: str) -> float | None:
  """The entry of a table by names of devices, for the longest that begins `device_kind`.

  None for a device that is not in it, and for a slice of a GPU, whose size is not known.
  """
  if not device_kind.startswith("NVIDIA"):
    return table.get(device_kind)
  if " MIG " in device_kind:
    return None
  models = [
    model for model in table if f"{device_kind} ".startswith((f"{model} ", f"{model}-"))
  ]
  return table[max(models, key=len)] if models else None
