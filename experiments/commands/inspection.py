"""`runner show`, `diff` and `why`: inspect configs without building anything."""

from experiments.diff import diff
from experiments.invocation import Invocation
from experiments.provenance import explain
from experiments.show import show
from layers.errors import UserError


def show_config(invocation: Invocation) -> int:
  """Prints the resolved config, or with --sharding the layout of its parameters."""
  if invocation.sharding:
    print(_sharding(invocation), end="")
  elif invocation.devices is not None:
    raise UserError("--devices means something with --sharding only")
  else:
    print(show(invocation.resolve(), invocation.format), end="")
  return 0


def _sharding(invocation: Invocation) -> str:
  if invocation.format != "flat":
    raise UserError("--format is for the config; --sharding prints a table")
  if invocation.devices is not None and invocation.devices < 1:
    raise UserError(f"--devices={invocation.devices}: expected at least 1")
  resolved = invocation.resolve()
  from runners.planning.sharding_report import sharding_report

  return sharding_report(resolved.config, resolved.exp, invocation.devices)


def diff_configs(invocation: Invocation) -> int:
  """Prints the fields in which two configs differ, one a line."""
  before, after = invocation.arguments
  for line in diff(before, after) or ["no field differs"]:
    print(line)
  return 0


def explain_value(invocation: Invocation) -> int:
  """Prints a field's value, who set it, and its earlier values."""
  (path,) = invocation.arguments
  print("\n".join(explain(invocation.resolve(), path).lines()))
  return 0
