"""FLOPs of compiled instructions: products, convolutions, kernels of libraries.

At 2 per multiply-add, as in runners/devices/flops.py. A TPU's compiler writes products as
convolutions whose windows reach beyond the array; only pairs within it count.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from runners.devices.hlo import Array, Instruction, Program
from runners.devices.kernel_flops import KernelFlops, attended_pairs, attention_flops

_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_INDICES = re.compile(r"(\w+)_(contracting|batch)_dims=\{([\d,]*)\}")
# The names under which compilers call cuDNN's attention and a library's product.
_ATTENTION, _PRODUCT = "__cudnn$fmha", ("__cublas$", "__onednn$matmul")


def target(instruction: Instruction) -> str:
  """What a custom call calls; "" for another instruction."""
  found = _TARGET.search(instruction.text) if instruction.opcode == "custom-call" else None
  return found[1] if found else ""


def flops_within(
  program: Program, computation: str, kernels: Collection[KernelFlops] = ()
) -> int:
  """FLOPs of all instructions of a fused computation, and of those fused within."""
  body = program.computations.get(computation, ())
  shapes = {instruction.name: instruction.arrays for instruction in body}
  total = 0
  for instruction in body:
    if instruction.opcode in ("fusion", "call"):
      total += sum(flops_within(program, name, kernels) for name in instruction.called())
    else:
      total += flops(instruction, shapes, kernels)
  return total


def flops(
  instruction: Instruction,
  shapes: Mapping[str, Sequence[Array]],
  kernels: Collection[KernelFlops] = (),
) -> int:
  """FLOPs of one instruction that calls no computation.

  Args:
    instruction: any.
    shapes: name -> arrays of each of its operands.
    kernels: the Pallas kernels of the program, known from its jaxpr.
  """
  operands = [array for name in instruction.operands for array in shapes.get(name, ())]
  opcode = instruction.opcode
  if opcode == "dot":
    return _dot(instruction, operands)
  if opcode == "convolution":
    return _convolution(instruction, operands)
  if opcode != "custom-call":
    return 0
  name = target(instruction)
  if name.startswith(_ATTENTION):
    return _attention(instruction, operands, name)
  if name.startswith(_PRODUCT):
    return _library_product(instruction, operands)
  return _pallas(instruction, kernels)


def _dot(instruction: Instruction, operands: Sequence[Array]) -> int:
  """Every element of the result sums over the contracted dimensions of the left operand."""
  numbers = {(side, kind): dims for side, kind, dims in _INDICES.findall(instruction.text)}
  contracted = _numbers(numbers.get(("lhs", "contracting"), ""))
  summed = math.prod(operands[0].dims[dim] for dim in contracted)
  return 2 * sum(array.size for array in instruction.arrays) * summed


def _convolution(instruction: Instruction, operands: Sequence[Array]) -> int:
  """Every output feature at every place sums over the kernel's input features within reach."""
  labels = _LABELS.search(instruction.text)
  if labels is None:
    return 0
  left, right, out = (
    dict(zip(text, range(len(text)), strict=True)) for text in labels.groups()
  )
  result, image, kernel = instruction.arrays[0], operands[0], operands[1]
  total = 2 * result.dims[out["b"]] * result.dims[out["f"]] * kernel.dims[right["i"]]
  window = _WINDOW.search(instruction.text)
  fields = dict(part.split("=") for part in window[1].split()) if window else {}
  places = [label for label in labels[1] if label.isdigit()]
  for number, label in enumerate(places):
    sizes = image.dims[left[label]], kernel.dims[right[label]], result.dims[out[label]]
    total *= _pairs_within(*sizes, **_along(fields, number))
  return total


def _along(fields: Mapping[str, str], number: int) -> dict[str, int]:
  """The window's stride, padding and dilations along a spatial dimension."""

  def part(name: str, default: str) -> str:
    return fields[name].split("x")[number] if name in fields else default

  return {
    "stride": int(part("stride", "1")),
    "before": int(part("pad", "0_0").split("_")[0]),
    "spread": int(part("lhs_dilate", "1")),
    "apart": int(part("rhs_dilate", "1")),
  }


def _pairs_within(
  size: int, kernel: int, out: int, *, stride: int, before: int, spread: int, apart: int
) -> int:
  """Pairs of a kernel's place and an output's whose input is an element of the array.

  Args:
    size, kernel, out: elements along the dimension.
    stride, before: of the window, and the padding before the array.
    spread, apart: distance between elements of the array, and of the kernel.
  """
  last, pairs = (size - 1) * spread, 0
  for place in range(kernel):
    first = place * apart - before  # the input that the first output reads
    begin = max(0, -(first // stride))
    end = min(out - 1, (last - first) // stride)
    if spread == 1:
      pairs += max(0, end - begin + 1)
    else:
      reads = range(first + begin * stride, first + end * stride + 1, stride)
      pairs += sum(read % spread == 0 for read in reads)
  return pairs


def _config(instruction: Instruction, name: str) -> Mapping[str, Any]:
  """A part of the compiler's own notes on an instruction; {} if there is none."""
  start = instruction.text.find("backend_config={")
  if start < 0:
    return {}
  text = instruction.text[start + len("backend_config=") :]
  return json.JSONDecoder().raw_decode(text)[0].get(name, {})


def _attention(instruction: Instruction, operands: Sequence[Array], name: str) -> int:
  """cuDNN's attention: two products forward, five back, of the pairs within the mask."""
  config = _config(instruction, "cudnn_fmha_backend_config")
  sizes = config.get("intermediate_tensor_shape", {}).get("dimensions", ())
  if len(sizes) != 4:
    return 0
  batch, heads, queries, keys = map(int, sizes)
  window = int(config.get("sliding_window_length", 0)) or None
  causal = "CAUSAL" in config.get("mask_type", "")
  pairs = attended_pairs(queries, keys, causal=causal, window=window)
  products = 5 if "Backward" in name else 2
  return attention_flops(batch, heads, pairs, operands[0].dims[-1], products)


def _library_product(instruction: Instruction, operands: Sequence[Array]) -> int:
  """A product that the compiler leaves to cuBLAS or oneDNN."""
  config = _config(instruction, "gemm_backend_config")
  numbers = config.get("dot_dimension_numbers", {})
  contracted = [int(dim) for dim in numbers.get("lhs_contracting_dimensions", ())]
  if not contracted:  # a plain matrix product
    contracted = [len(operands[0].dims) - 1]
  summed = math.prod(operands[0].dims[dim] for dim in contracted)
  return 2 * instruction.arrays[0].size * summed


def _pallas(instruction: Instruction, kernels: Collection[KernelFlops]) -> int:
  """A Pallas kernel, by its name and the shapes of its results, or by one of them."""
  named = [one for one in kernels if one.name in f"{instruction.source}/{instruction.name}"]
  longest = max((len(one.name) for one in named), default=0)  # one name may begin another
  named = [one for one in named if len(one.name) == longest]
  shapes = tuple(array.dims for array in instruction.arrays)
  alike = [one for one in named if one.shapes == shapes] or named
  if not alike and "pallas_call" in instruction.source:  # a GPU's, which tells no name
    alike = [one for one in kernels if one.shapes == shapes]
  return max((one.flops for one in alike), default=0)


def _numbers(text: str) -> list[int]:
  return [int(number) for number in text.split(",") if number]
