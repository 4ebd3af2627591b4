"""Where the time of a step goes: products, memory, exchanges, and pauses between kernels.

Two sums over the kernels of one device. `seconds` has each kernel's products and memory one
after the other, and so has been within a few per cent of large models' measured steps
(docs/planning.md). `bound` lets a kernel's products and memory go on at once: no kernel takes
less at these rates. Both count exchanges and pauses in full, which devices hide in part.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from runners.devices.kernels import Kernel
from runners.devices.rates import Rates
from runners.planning.parts import part

# What bytes are for; of products apart what they read and what they write.
KINDS = ("results", "operands", "kept", "elementwise", "reductions", "copies")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepAccount:
  """A step on one device.

  Attributes:
    flops, bytes: of all kernels.
    launches: the number of kernels that run; choices: between programs (`lax.cond`).
    parts: part of the model -> kind -> bytes, the largest part first.
    products, memory, exchanges, pauses: seconds of each alone; None: rates unknown.
    seconds: all of them, one after the other.
    bound: the same with each kernel's products and memory at once.
  """

  flops: int
  bytes: int
  launches: int
  choices: int
  parts: Mapping[str, Mapping[str, int]]
  products: float | None
  memory: float | None
  exchanges: float | None
  pauses: float | None
  seconds: float | None
  bound: float | None


def account(
  kernels: Sequence[Kernel], rates: Rates | None, exchanges: float | None
) -> StepAccount:
  """The account of a step's kernels.

  Args:
    kernels: of one device.
    rates: of the device; None if unknown.
    exchanges: seconds that its exchanges take; None if unknown.
  """
  flops, size = sum(each.flops for each in kernels), sum(each.bytes for each in kernels)
  launches = sum(each.times for each in kernels if each.kind != "choices")
  parts = _by_part(kernels)
  if rates is None:
    products = memory = pauses = seconds = bound = None
  else:
    products, memory = flops / rates.flops, size / rates.memory
    pauses = launches * rates.pause
    between = (exchanges or 0.0) + pauses
    seconds = products + memory + between
    bound = between + sum(
      max(each.flops / rates.flops, each.bytes / rates.memory) for each in kernels
    )
  return StepAccount(
    flops=flops,
    bytes=size,
    launches=launches,
    choices=sum(each.times for each in kernels) - launches,
    parts=parts,
    products=products,
    memory=memory,
    exchanges=exchanges,
    pauses=pauses,
    seconds=seconds,
    bound=bound,
  )


def dearest(kernels: Iterable[Kernel], rates: Rates | None, number: int) -> list[Kernel]:
  """The kernels with the most seconds, or where no rates are known with the most bytes."""
  return sorted(kernels, key=lambda each: -(seconds_of(each, rates) or each.bytes))[:number]


def merged(kernels: Iterable[Kernel]) -> list[Kernel]:
  """The same kernels of every layer of an unrolled model as one, by the first's name."""
  groups = collections.defaultdict[tuple, list[Kernel]](list)
  for each in kernels:
    times = max(1, each.times)  # a loop may run no time at all
    alike = (each.bytes // times, each.flops // times)
    groups[each.kind, each.source, each.place, *alike].append(each)
  sums = ("times", "flops", "bytes", "kept", "results")
  return [
    dataclasses.replace(
      group[0], **{name: sum(getattr(each, name) for each in group) for name in sums}
    )
    for group in groups.values()
  ]


def seconds_of(kernel: Kernel, rates: Rates | None) -> float | None:
  """Seconds of a kernel's products and memory, one after the other; None: rates unknown."""
  return rates and kernel.flops / rates.flops + kernel.bytes / rates.memory


def bytes_by_kind(kernel: Kernel) -> dict[str, int]:
  """Kind -> bytes of one kernel."""
  if kernel.kind in ("exchanges", "choices"):
    return {}
  rest = kernel.bytes - kernel.kept
  if kernel.kind == "products":
    found = {"results": kernel.results, "operands": rest - kernel.results}
  else:
    found = {kernel.kind: rest}
  return {**found, "kept": kernel.kept}


def _by_part(kernels: Sequence[Kernel]) -> dict[str, dict[str, int]]:
  sums = collections.defaultdict[str, collections.Counter[str]](collections.Counter)
  for kernel in kernels:
    sums[part(kernel.source)].update(bytes_by_kind(kernel))
  by_size = sorted(sums.items(), key=lambda item: -item[1].total())
  return {
    name: {kind: kinds[kind] for kind in KINDS} for name, kinds in by_size if kinds.total()
  }
