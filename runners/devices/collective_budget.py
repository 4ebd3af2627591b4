"""The collectives that an experiment allows its compiled program, and checks against them."""

import dataclasses
from collections.abc import Sequence

from layers.errors import UserError
from layers.ranges import NonNegativeInt
from layers.suggestions import did_you_mean
from runners.devices.collectives import KINDS, Collective
from runners.devices.meshes import AXES

_WRAPPING = (
  "while",
  "body",
  "closed_call",
  "shard_map",
  "cond",
  "checkpoint",
  "rematted_computation",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allowance:
  """The allowed number of one kind of collective along an axis.

  Attributes:
    kind: all-gather, all-reduce, reduce-scatter, all-to-all or collective-permute.
    axis: a mesh axis; collectives along it, alone or with other axes, count. None: any axis.
    per_layer: collectives for each layer and microbatch, forward and backward together.
    per_pass: further collectives for each microbatch, independent of the layers.
  """

  kind: str
  axis: str | None = None
  per_layer: NonNegativeInt = 0
  per_pass: NonNegativeInt = 0

  def __post_init__(self):
    if self.kind not in KINDS:
      raise UserError(f"Allowance: kind={self.kind!r}: {did_you_mean(self.kind, KINDS)}")
    if self.axis is not None and self.axis not in AXES:
      raise UserError(f"Allowance: axis={self.axis!r}: {did_you_mean(self.axis, AXES)}")

  def concerns(self, collective: Collective) -> bool:
    """Whether the exchange is of the kind and along the axis."""
    along = self.axis is None or self.axis in collective.axes
    return collective.kind == self.kind and along

  def at_most(self, num_layers: int, num_microbatches: int) -> int:
    """Allowed collectives in a step."""
    return (self.per_layer * num_layers + self.per_pass) * num_microbatches


def violations(
  budget: Sequence[Allowance],
  found: Sequence[Collective],
  *,
  num_layers: int,
  num_microbatches: int,
) -> list[str]:
  """A line for each allowance that the program exceeds, with the places that exchange most.

  Collectives that no allowance names are unlimited.
  """
  lines = []
  for allowance in budget:
    those = sorted(filter(allowance.concerns, found), key=lambda c: (-c.count, -c.bytes))
    count, limit = sum(c.count for c in those), allowance.at_most(num_layers, num_microbatches)
    if count > limit:
      along = f" along {allowance.axis}" if allowance.axis else ""
      places = "; ".join(f"{c.count} x {_place(c.source)}" for c in those[:3])
      lines.append(f"{allowance.kind}{along}: {count} a step, {limit} allowed: {places}")
  return lines


def _place(source: str) -> str:
  """The layers in an op_name, without the names of jax's wrappers."""
  parts = [part for part in source.split("/") if part not in _WRAPPING]
  return "/".join(part for part in parts if not part.startswith("jit(")) or "an unnamed place"
