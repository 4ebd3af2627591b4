"""`runner show --sharding`: how a mesh splits each parameter, and by which rule.

It takes shapes and arithmetic only: no array is allocated, no data are read, and the devices
may be absent.
"""

import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fiddle as fdl
import jax

from layers.sharding import Rules
from runners.blueprint import draw, lay_ground
from runners.devices.layout import Dimension, Layout, mesh_axes

_LEGEND = (
  "axis>mesh[n]: sharding[n] splits the logical axis over these mesh axes",
  "axis[n]: sharding[n] leaves it whole      axis[-]: no rule splits it",
)


def sharding_report(config: fdl.Config, exp: str, num_devices: int | None = None) -> str:
  """The text, ending with a newline.

  Args:
    config: a resolved config of a Trainer.
    exp: the experiment's name.
    num_devices: None: the product of the mesh's axes; if one is -1, this machine's devices, or
      the product of the other axes.

  Raises:
    UserError: the mesh, the rules, the batch and the model do not fit each other.
  """
  ground = lay_ground(config)
  shape = ground.mesh
  mesh = shape.describe(num_devices or shape.num_devices(jax.device_count()))
  blueprint = draw(ground, mesh)
  state = blueprint.initializer.abstract
  rules, layouts = blueprint.trainer.sharding, blueprint.layouts
  axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
  sections = [
    [f"{exp} on {mesh.size} device{'s' if mesh.size > 1 else ''}{': ' if axes else ''}{axes}"],
    _LEGEND,
    _parameters([layout for layout in layouts if layout.dtype is not None]),
    _totals({"parameters": state.params, "optimizer": state.opt_state}),
    _activations([layout for layout in layouts if layout.dtype is None]),
    _rules_without_effect(rules, layouts),
    _left_whole(rules, layouts, mesh.shape),
  ]
  return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _parameters(layouts: Sequence[Layout]) -> list[str]:
  rows = [("parameter", "shape", "dtype", "axes", "bytes a device")]
  for layout in layouts:
    axes = " ".join(map(_axis_text, layout.dimensions))
    size = f"{layout.bytes_per_device:,}"
    rows.append((layout.name, _shape_text(layout), str(layout.dtype), axes, size))
  return _columns(rows)


def _activations(layouts: Sequence[Layout]) -> list[str]:
  rows = [("activation of one forward pass", "axes")]
  rows += [(_shape_text(x), " ".join(map(_axis_text, x.dimensions))) for x in layouts]
  return _columns(rows)


def _shape_text(layout: Layout) -> str:
  return " x ".join(map(str, layout.shape)) or "scalar"


def _axis_text(dimension: Dimension) -> str:
  """A dimension as text, such as `embed>fsdp[11]`."""
  rule = "-" if dimension.rule is None else dimension.rule
  over = f">{','.join(dimension.axes)}" if dimension.axes else ""
  return f"{dimension.name or 'unnamed'}{over}[{rule}]"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows with aligned columns; from four columns on, the last holds numbers: to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
  for n, (cell, width) in enumerate(zip(row, widths, strict=True), start=1):
    is_number = n == len(row) and n > 3
    yield cell.rjust(width) if is_number else cell.ljust(width)


def _totals(trees: Mapping[str, Any]) -> list[str]:
  rows = [("in all", "arrays", "numbers", "bytes", "bytes a device")]
  for name, tree in trees.items():
    arrays = jax.tree.leaves(tree)
    whole = sum(x.size * x.dtype.itemsize for x in arrays)
    here = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)
    numbers = sum(x.size for x in arrays)
    rows.append((name, str(len(arrays)), f"{numbers:,}", _size(whole), _size(here)))
  return _columns(rows)


def _size(num_bytes: float) -> str:
  units = ["B", "kB", "MB", "GB", "TB"]
  while num_bytes >= 1000 and len(units) > 1:
    num_bytes /= 1000
    del units[0]
  return f"{num_bytes:.{0 if units[0] == 'B' else 2}f} {units[0]}"


def _rules_without_effect(rules: Rules, layouts: Sequence[Layout]) -> list[str]:
  """The rules that decide nothing, and why."""
  dimensions = [dimension for layout in layouts for dimension in layout.dimensions]
  winners = {dimension.rule for dimension in dimensions}
  names = {dimension.name for dimension in dimensions}
  lines = [
    f"  sharding[{n}] {name} -> {', '.join(mesh_axes(axes)) or 'whole'}: "
    + ("an earlier rule always wins" if name in names else "nothing here has this axis")
    for n, (name, axes) in enumerate(rules)
    if n not in winners
  ]
  return ["rules that match nothing", *lines] if lines else ["every rule matches something"]


def _left_whole(rules: Rules, layouts: Sequence[Layout], mesh: Mapping[str, int]) -> list[str]:
  """Parameter dimensions that every device holds whole, by axis and reason."""
  met: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
  for layout in layouts:
    if layout.dtype is not None:
      for dimension in layout.dimensions:
        if dimension.parts == 1:
          axis = f"{dimension.name or 'unnamed'} {dimension.size}"
          met[axis, _reason(dimension, rules)].append(layout.name)
  rows = [
    (axis, reason, names[0] if len(names) == 1 else f"{len(names)} parameters")
    for (axis, reason), names in met.items()
  ]
  return ["dimensions left whole", *(f"  {row}" for row in _columns(rows))] if rows else []


def _reason(dimension: Dimension, rules: Rules) -> str:
  if dimension.axes:
    return f"{' and '.join(f'mesh.{axis}' for axis in dimension.axes)} is 1"
  if dimension.rule is not None:
    return f"sharding[{dimension.rule}] says so"
  if any(name == dimension.name for name, _ in rules):
    return "another dimension has its mesh axes"
  return "no rule names it"
