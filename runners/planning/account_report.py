"""The text in which `runner plan` says where a step's time goes."""

from collections.abc import Iterator, Sequence

from runners.devices.kernels import Kernel
from runners.devices.rates import Rates
from runners.planning.parts import layers_around
from runners.planning.step_account import KINDS, StepAccount, dearest, merged, seconds_of
from runners.planning.tables import table

_HEADS = ("products' results", "operands", "kept", "elementwise", "reductions", "copies")
_NUMBER = 20  # kernels listed


def account_lines(found: StepAccount, rates: Rates | None, mfu: float | None) -> Iterator[str]:
  """Where the time and the bytes of a step go: sums, and the bytes by part and kind."""
  yield from sum_lines(found, rates, mfu)
  if found.choices:
    plural = "s" if found.choices > 1 else ""
    yield (
      f"  {found.choices:,} choice{plural} between programs, which a GPU's host has to wait for"
    )
  yield ""
  yield from _bytes_by_part(found)


def sum_lines(found: StepAccount, rates: Rates | None, mfu: float | None) -> Iterator[str]:
  """The sums over all kernels of a step.

  Args:
    found: the account.
    rates: those of the device, None if unknown.
    mfu: model FLOP utilisation of a step of `found.seconds`; None if unknown.
  """
  if rates is None:
    sizes = _unit(found.flops, "FLOP"), _unit(found.bytes, "B")
    yield (
      f"a step on a device: {sizes[0]} of products, {sizes[1]} of memory, "
      f"{found.launches:,} kernels"
    )
    yield "  no times: the rates of the device that this is compiled for are not known"
  else:
    yield from _times(found, rates, mfu)


def _times(found: StepAccount, rates: Rates, mfu: float | None) -> Iterator[str]:
  yield f"{'a step on a device':44}{'ms':>10}"
  products = f"{_unit(found.flops, 'FLOP')} at {_unit(rates.flops, 'FLOP')}/s"
  memory = f"{_unit(found.bytes, 'B')} at {_unit(rates.memory, 'B')}/s"
  rows = [
    (f"products, {products}", found.products),
    (f"memory, {memory}", found.memory),
    ("exchanges", found.exchanges),
    (f"pauses between {found.launches:,} kernels", found.pauses),
    ("one after the other", found.seconds),
    ("products and memory of a kernel at once", found.bound),
  ]
  for text, seconds in rows:
    yield f"  {text:42}{_milliseconds(seconds):>10}"
  if mfu is not None:
    source = "measured" if rates.measured else "of the data sheet"
    yield f"  {mfu:.1%} MFU one after the other; rates {source}"


def _bytes_by_part(found: StepAccount) -> Iterator[str]:
  """The table of bytes, parts of the model by kinds."""
  size, unit = _scale(found.bytes)
  rows: list[Sequence[str]] = [(f"{unit} by part", *_HEADS, "all")]
  sums = [0] * len(KINDS)
  for name, kinds in found.parts.items():
    each = [kinds[kind] for kind in KINDS]
    sums = [x + y for x, y in zip(sums, each, strict=True)]
    rows.append((name, *(f"{x / size:,.2f}" for x in (*each, sum(each)))))
  rows.append(("all", *(f"{x / size:,.2f}" for x in (*sums, sum(sums)))))
  yield from table(rows)


def kernel_lines(kernels: Sequence[Kernel], rates: Rates | None) -> Iterator[str]:
  """The dearest kernels, each with the layers and the line of code that it came from."""
  kernels = merged(kernels)
  listed = dearest(kernels, rates, _NUMBER)
  yield f"the {len(listed)} dearest of {len(kernels):,} kinds of kernels"
  size, unit = _scale(max((each.bytes for each in listed), default=0))
  work, prefix = _scale(max((each.flops for each in listed), default=0))
  head = f"{'ms':>9} {'times':>7} {unit:>10} {f'{prefix[0]}FLOP':>10}"
  yield f"  {head}  {'what':11}  {'pass':8}  where"
  for each in listed:
    figures = (
      f"{_milliseconds(seconds_of(each, rates)):>9} {each.times:>7,} "
      f"{each.bytes / size:>10,.2f} {each.flops / work:>10,.1f}"
    )
    yield f"  {figures}  {each.kind:11}  {_pass(each.source):8}  {_where(each)}"


def _pass(source: str) -> str:
  """Forward, again (recomputed for the backward pass) or back."""
  if "rematted_computation" in source:
    return "again"
  if "transpose(" in source:
    return "back"
  return "forward" if "jvp" in source else ""


def _where(each: Kernel) -> str:
  """The innermost layers, the line, and the compiler's name."""
  layers = "/".join(layers_around(each.source)[-3:]) if each.source else ""
  return "  ".join(text for text in (layers, each.place, each.name) if text)


def _milliseconds(seconds: float | None) -> str:
  return (
    "n/a"
    if seconds is None
    else f"{1e3 * seconds:,.3g}"
    if seconds < 1
    else f"{1e3 * seconds:,.0f}"
  )


def _unit(x: float, unit: str) -> str:
  for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
    if x >= size:
      return f"{x / size:,.3g} {prefix}{unit}"
  return f"{x:,.3g} {unit}"


def _scale(x: float) -> tuple[float, str]:
  """The unit for numbers of which `x` is the largest."""
  sizes = ((1e13, 1e12, "TB"), (1e9, 1e9, "GB"), (0, 1e6, "MB"))
  return next((size, unit) for least, size, unit in sizes if x >= least)
