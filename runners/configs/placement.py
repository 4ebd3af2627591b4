"""The fields that say only where, and in which portions, a run computes the same numbers.

A run goes on with other values of these unasked, and a point of a sweep is still that point:
its batches are the same and its results equal up to rounding.
"""

import re

# Of the trainer; what stands below one of them is meant with it.
PLACEMENT_FIELDS = ("mesh", "sharding", "microbatch_size", "collective_budget")


def trainer_field(path: str) -> str:
  """`eval_data['validation'].split` -> `eval_data`: under which field of the trainer it is."""
  return re.split(r"[.\[]", path)[0]


def is_placement(path: str) -> bool:
  """Whether the field at `path` decides only where a run is computed."""
  return trainer_field(path) in PLACEMENT_FIELDS
