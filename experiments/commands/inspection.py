"""`runner show`, `diff` and `why`: configs looked at, nothing built."""

from experiments.diff import diff
from experiments.invocation import Invocation
from experiments.provenance import explain
from experiments.show import show


def show_config(invocation: Invocation) -> int:
  """The resolved config."""
  print(show(invocation.resolve(), invocation.format), end="")
  return 0


def diff_configs(invocation: Invocation) -> int:
  """The fields in which two configs differ, one a line."""
  before, after = invocation.arguments
  for line in diff(before, after) or ["no field differs"]:
    print(line)
  return 0


def explain_value(invocation: Invocation) -> int:
  """A field's value, who set it, and the values before it."""
  (path,) = invocation.arguments
  print("\n".join(explain(invocation.resolve(), path).lines()))
  return 0
