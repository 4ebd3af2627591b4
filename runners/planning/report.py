"""The text that `runner plan` prints."""

from collections.abc import Iterator

from runners.devices.collectives import by_kind
from runners.planning.account_report import account_lines, kernel_lines, sum_lines
from runners.planning.plan import Plan, RunCost

_MIB, _GIB = 2**20, 2**30
_STATE = {
  "parameters": "parameters",
  "optimizer": "optimizer",
  "gradients": "gradients",
  "activations": "activations, gathered weights, workspace",
}
_PROGRAM = {
  "arguments": "arguments of the step",
  "temporaries": "temporaries of the step",
  "host": "on the host",
  "peak": "peak",
}


def report(
  plan: Plan,
  exp: str,
  *,
  mfu: float,
  tokens: float | None,
  price: float,
  kernels: bool = False,
) -> str:
  """The text, ending with a newline.

  Args:
    plan, exp: the plan, and its experiment's name.
    mfu, tokens, price: see `Plan.run`; a price of 0 is not printed.
    kernels: with the dearest kernels.
  """
  peak = plan.bytes_per_device["peak"]
  unit = ("GiB", _GIB) if peak is None or peak >= _GIB else ("MiB", _MIB)
  sections = [
    _heading(plan, exp),
    [*_memory(plan, *unit)],
    [*_exchanges(plan, *unit)],
    [*_account(plan, kernels=kernels)],
    [*_time(plan, plan.run(mfu=mfu, tokens=tokens, price=price), price)],
  ]
  return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _heading(plan: Plan, exp: str) -> list[str]:
  mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items()) or "one device"
  ratio = plan.hardware_flops_per_step / plan.flops_per_step
  return [
    f"experiment  {exp}  {plan.parameters:,} parameters",
    f"compiled    for {plan.compiled_for}, in {plan.compile_seconds:.1f} s",
    f"mesh        {mesh}",
    f"step        {plan.units_per_step:,} {plan.units} in {plan.num_microbatches} forward pass"
    f"{'es' if plan.num_microbatches > 1 else ''}",
    f"FLOPs       {plan.flops_per_step:.4g} of the model a step; the program computes "
    f"{plan.hardware_flops_per_step:.4g} ({ratio:.2f} x)",
    *(f"note        {note}" for note in plan.notes),
  ]


def _memory(plan: Plan, unit: str, size_of_unit: int) -> Iterator[str]:
  held = plan.bytes_per_device

  def rows(texts: dict[str, str]) -> Iterator[str]:
    for name, text in texts.items():
      size = held[name]
      if name != "host" or size:
        shown = "?" if size is None else f"{size / size_of_unit:,.2f}"
        yield f"  {text:40}{shown:>11}"

  yield f"{unit} on a device, by what it is for"
  yield from rows(_STATE)
  yield "the same, as the compiler counts it"
  yield from rows(_PROGRAM)
  if plan.usable is not None:
    yield f"  {'there is':40}{plan.usable / size_of_unit:>11,.2f}"
  yield f"  {'fits' if plan.fits else 'DOES NOT FIT'}{_why(plan)}"


def _why(plan: Plan) -> str:
  peak = plan.bytes_per_device["peak"]
  if plan.refusal:
    return f": {plan.refusal}"
  if plan.usable is None or peak is None:
    return ""
  return f": the peak is {100 * peak / plan.usable:.2g} % of what there is"


def _exchanges(plan: Plan, unit: str, size_of_unit: int) -> Iterator[str]:
  if not plan.collectives:
    return
  yield f"{'collectives of a step':32}{'along':20}{'arrays':>8}{f'{unit} a device':>14}"
  for kind, axes, count, size, _ in by_kind(plan.collectives):
    yield f"  {kind:30}{', '.join(axes):20}{count:>8,}{size / size_of_unit:>14,.3f}"
  for line in plan.over_budget:
    yield f"  OVER BUDGET {line}"


def _account(plan: Plan, *, kernels: bool) -> Iterator[str]:
  found = plan.account()
  if found is None:
    return
  yield from account_lines(found, plan.rates, plan.model_utilisation(found.seconds))
  if (cheapest := plan.account(cheapest=True)) is not None:
    yield ""
    yield "the same by the cheapest branch of each choice"
    yield from sum_lines(cheapest, plan.rates, plan.model_utilisation(cheapest.seconds))
  if kernels:
    yield ""
    yield from kernel_lines(plan.kernels or (), plan.rates)


def _time(plan: Plan, run: RunCost, price: float) -> Iterator[str]:
  if run.seconds_per_step is None:
    yield "time        n/a: the peak speed of this device is not known"
  else:
    speed = plan.units_per_step / run.seconds_per_step
    yield (
      f"time        {_duration(run.seconds_per_step)} a step at {run.mfu:.0%} of peak speed: "
      f"{speed:,.0f} {plan.units}/s"
    )
  if run.steps is not None:
    line = f"run         {run.steps:,.0f} steps, {run.amount:.4g} {plan.units}"
    if run.seconds is not None:
      line += f": {_duration(run.seconds)}, {_number(run.device_hours or 0)} device hours"
    if price and run.cost is not None:
      line += f", {_number(run.cost)} at {price:g} an hour"
    yield line


def _number(x: float) -> str:
  return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _duration(seconds: float) -> str:
  for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
    if seconds >= 2 * size:
      return f"{seconds / size:,.1f} {unit}"
  return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
