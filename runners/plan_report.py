"""`runner plan` for people to read."""

from collections.abc import Iterator, Sequence

from runners.collectives import by_kind
from runners.plan import Plan

_GIB = 2**30
_ROWS = {
  "parameters": "parameters",
  "optimizer": "optimizer",
  "gradients": "gradients",
  "activations": "activations, gathered weights, workspace",
  "arguments": "arguments of the step",
  "temporaries": "temporaries of the step",
  "host": "on the host",
  "peak": "peak",
}


def report(plan: Plan, exp: str, *, mfu: float, tokens: float | None, price: float) -> str:
  """The text, ending with a newline.

  Args:
    mfu: model FLOP utilisation that time and cost are told for.
    tokens: to train on; None: those of the run.
    price: of a device for an hour; 0: not told.
  """
  sections = [
    _heading(plan, exp),
    [*_memory(plan)],
    [*_exchanges(plan)],
    [*_time(plan, mfu, tokens, price)],
  ]
  return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _heading(plan: Plan, exp: str) -> list[str]:
  mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items()) or "one device"
  ratio = plan.hardware_flops_per_step / plan.flops_per_step
  return [
    f"experiment  {exp}  {plan.parameters:,} parameters",
    f"compiled    for {plan.compiled_for}, in {plan.compile_seconds:.1f} s",
    f"mesh        {mesh}",
    f"step        {plan.tokens_per_step:,} tokens in {plan.num_microbatches} forward pass"
    f"{'es' if plan.num_microbatches > 1 else ''}",
    f"FLOPs       {plan.flops_per_step:.4g} of the model a step; the program computes "
    f"{plan.hardware_flops_per_step:.4g} ({ratio:.2f} x)",
    *(f"note        {note}" for note in plan.notes),
  ]


def _memory(plan: Plan) -> Iterator[str]:
  held = plan.bytes_per_device
  yield f"{'GiB on a device':42}"
  for name, text in _ROWS.items():
    if name == "host" and not held[name]:
      continue
    size = held[name]
    yield f"  {text:40}{'?' if size is None else f'{size / _GIB:.2f}':>9}"
  if plan.usable is not None:
    yield f"  {'there is':40}{plan.usable / _GIB:>9.2f}"
  yield f"  {'fits' if plan.fits else 'DOES NOT FIT'}{_why(plan)}"


def _why(plan: Plan) -> str:
  peak = plan.bytes_per_device["peak"]
  if plan.refusal:
    return f": {plan.refusal}"
  if plan.usable is None or peak is None:
    return ""
  return f": the peak is {100 * peak / plan.usable:.0f} % of what there is"


def _exchanges(plan: Plan) -> Iterator[str]:
  if not plan.collectives:
    return
  yield f"{'collectives of a step':32}{'along':20}{'times':>8}{'GiB a device':>14}"
  for kind, axes, count, size, _ in by_kind(plan.collectives):
    yield f"  {kind:30}{', '.join(axes):20}{count:>8,}{size / _GIB:>14.3f}"
  for line in plan.over_budget:
    yield f"  OVER BUDGET {line}"


def _time(plan: Plan, mfu: float, tokens: float | None, price: float) -> Iterator[str]:
  seconds = plan.seconds_per_step(mfu)
  if seconds is None:
    yield "time        n/a: the peak speed of this device is not known"
    return
  speed = plan.tokens_per_step / seconds
  yield f"time        {_duration(seconds)} a step at {mfu:.0%} MFU: {speed:,.0f} tokens/s"
  steps = tokens / plan.tokens_per_step if tokens else plan.num_steps
  if steps:
    total = steps * seconds
    hours = total * plan.devices / 3600
    cost = f", {hours * price:,.0f} at {price:g} an hour" if price else ""
    yield (
      f"run         {steps:,.0f} steps, {steps * plan.tokens_per_step:.4g} tokens: "
      f"{_duration(total)}, {hours:,.0f} device hours{cost}"
    )


def _duration(seconds: float) -> str:
  for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
    if seconds >= 2 * size:
      return f"{seconds / size:,.1f} {unit}"
  return f"{seconds:.3g} s"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows of text with their columns aligned, numbers to the right but for the first."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      cell.ljust(width) if n == 0 else cell.rjust(width)
      for n, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
