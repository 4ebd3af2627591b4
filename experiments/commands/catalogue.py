"""`runner list`: the experiments."""

from experiments import registry
from experiments.invocation import Invocation
from layers.errors import UserError
from layers.suggestions import did_you_mean


def list_experiments(invocation: Invocation) -> int:
  """Prints all experiments, or the ones matching a pattern or tag, with a line about each."""
  entries = registry.catalogue()
  pattern = "".join(invocation.arguments)
  chosen = [entry for entry in entries if entry.matches(pattern)]
  if not chosen:
    names = [entry.name for entry in entries]
    tags = sorted({tag for entry in entries for tag in entry.tags})
    raise UserError(
      f"no experiment matches {pattern!r}: {did_you_mean(pattern, names)} (tags: "
      f"{', '.join(tags)}; if a module of yours registers it, add --load=MODULE)"
    )
  width = max(len(entry.name) for entry in chosen)
  for entry in chosen:
    tags = f"  [{', '.join(entry.tags)}]" if entry.tags else ""
    print(f"{entry.name:{width}}  {entry.summary}{tags}".rstrip())
  return 0
