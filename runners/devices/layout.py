"""How a mesh splits each array of a model: logical axes, the deciding rules, divisibility.

A dimension with a logical name is split over the mesh axes of the first rule for that name
whose axes no other dimension of the array uses (flax.linen.logical_to_mesh_axes). Without such
a rule it stays whole. Along a mesh axis that an array does not use, every device holds a copy.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import fiddle as fdl
import flax.linen as nn
import jax
import numpy as np

from layers.errors import UserError
from layers.notices import note
from layers.sharding import Constraint, Rules, names_in
from layers.suggestions import did_you_mean
from runners.configs.tree import path_text, walk
from runners.devices.meshes import AXES, BATCH_AXES

# Logical axis -> the fields of layers that give its size; error messages name them.
_FIELDS = {
  "vocab": ("padded_vocab_size", "vocab_size"),
  "embed": ("model_dim",),
  "heads": ("num_heads",),
  "kv_heads": ("num_kv_heads", "num_heads"),
  "head_dim": ("head_dim",),
  "mlp": ("hidden_dim",),
  "layers": ("num_layers",),
  "position": ("max_positions",),
  "length": ("sequence_length",),
  "residual_length": ("sequence_length",),
}


class Dimension(NamedTuple):
  """One dimension of an array on a mesh."""

  size: int
  name: str | None  # logical
  rule: int | None  # index of the deciding rule; None: no rule
  axes: tuple[str, ...]  # of the mesh
  parts: int  # devices along those axes


@dataclasses.dataclass(frozen=True)
class Layout:
  """One parameter or activation on a mesh.

  Attributes:
    name: the parameter's name, or "activation".
    dtype: of the parameter; None for an activation.
    dimensions: in the array's order.
  """

  name: str
  dtype: Any
  dimensions: tuple[Dimension, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(dimension.size for dimension in self.dimensions)

  @property
  def shard_shape(self) -> tuple[int, ...]:
    """The shape of one device's part."""
    return tuple(dimension.size // dimension.parts for dimension in self.dimensions)

  @property
  def bytes_per_device(self) -> int:
    return math.prod(self.shard_shape) * np.dtype(self.dtype).itemsize


def check_rules(rules: Rules) -> None:
  """Raises UserError for a malformed rule, or one that names an unknown mesh axis."""
  for index, rule in enumerate(rules):
    where = f"sharding[{index}]={rule!r}"
    if not _is_rule(rule):
      raise UserError(
        f"{where} is no rule: write (logical axis, mesh axis), as ('mlp', 'tensor')"
      )
    axes = mesh_axes(rule[1])
    for axis in axes:
      if axis not in AXES:
        raise UserError(f"{where}: there is no mesh axis {axis!r}: {did_you_mean(axis, AXES)}")
    if len(set(axes)) < len(axes):
      raise UserError(f"{where} names a mesh axis twice")


def _is_rule(rule: Any) -> bool:
  if not isinstance(rule, tuple | list) or len(rule) != 2 or not isinstance(rule[0], str):
    return False
  axes = rule[1] if isinstance(rule[1], tuple | list) else [rule[1] or ""]
  return all(isinstance(axis, str) for axis in axes)


def mesh_axes(axes: Any) -> tuple[str, ...]:
  """The mesh axes of one rule or of one entry of a PartitionSpec."""
  return (axes,) if isinstance(axes, str) else tuple(axes or ())


def lay_out(
  name: str,
  shape: Sequence[int],
  names: Sequence[str | None],
  rules: Rules,
  mesh: Mapping[str, int],
  dtype: Any = None,
) -> Layout:
  """The layout of one array under the rules, on a mesh of these sizes.

  Raises:
    UserError: the array has a logical axis twice, or not one axis for each dimension.
  """
  known = [axis for axis in names if axis]
  if len(names) != len(shape) or len(set(known)) < len(known):
    raise UserError(
      f"{name} has the shape {tuple(shape)} and the logical axes {tuple(names)}: give each "
      "dimension one, and none twice"
    )
  names = names_in(rules, names)
  spec = nn.spmd.logical_to_mesh_axes(names, rules) or ()
  dimensions = []
  for size, logical, entry in zip(shape, names, spec, strict=True):
    axes = mesh_axes(entry)
    parts = math.prod(mesh[axis] for axis in axes)
    dimensions.append(Dimension(size, logical, _winner(logical, axes, rules), axes, parts))
  return Layout(name, dtype, tuple(dimensions))


def _winner(name: str | None, axes: tuple[str, ...], rules: Rules) -> int | None:
  """The index of the first rule that maps `name` to `axes`; None if there is none."""
  matching = (
    n for n, rule in enumerate(rules) if rule[0] == name and mesh_axes(rule[1]) == axes
  )
  return next(matching, None)


def parameter_layouts(boxed: Any, rules: Rules, mesh: Mapping[str, int]) -> list[Layout]:
  """The layouts of all parameters in a tree of shapes boxed with their logical axes."""
  is_boxed = lambda x: isinstance(x, nn.meta.AxisMetadata)
  layouts = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_boxed):
    array = nn.unbox(leaf)
    names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * array.ndim
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    layouts.append(lay_out(name, array.shape, names, rules, mesh, array.dtype))
  return layouts


def activation_layouts(
  constraints: Sequence[Constraint], rules: Rules, mesh: Mapping[str, int], num_rows: int
) -> list[Layout]:
  """The layouts of constrained activations, each kind once, for a batch of `num_rows`.

  A constraint without a batch axis is skipped: it is a parameter, gathered for use.
  """
  kinds = dict.fromkeys(kind for kind in constraints if "batch" in kind.names)
  layouts = []
  for names, shape in kinds:
    shape = [
      num_rows if name == "batch" else size for size, name in zip(shape, names, strict=True)
    ]
    layouts.append(lay_out("activation", shape, names, rules, mesh))
  return list(dict.fromkeys(layouts))


def check_divides(layouts: Sequence[Layout], config: fdl.Config) -> None:
  """Raises UserError if a rule splits a dimension over mesh axes that do not divide it.

  Leaving it whole silently would lose the memory that splitting was meant to save.
  """
  wrong = [
    (dimension, layout)
    for layout in layouts
    for dimension in layout.dimensions
    if dimension.size % dimension.parts
  ]
  if not wrong:
    return
  dimension, layout = wrong[0]
  same = {
    other.rule: other.name
    for other, _ in wrong
    if (other.size, other.axes) == (dimension.size, dimension.axes)
  }
  whole = " ".join(
    f"\"--set=sharding[{n}]=('{name}',None)\"" for n, name in sorted(same.items())
  )
  shape = " x ".join(f"{size} {name or ''}".strip() for size, name, *_ in layout.dimensions)
  divisors = [n for n in range(1, dimension.size + 1) if dimension.size % n == 0]
  below = max(n for n in divisors if n <= dimension.parts)
  above = [n for n in divisors if n > dimension.parts][:1]
  raise UserError(
    f"{_field(config, dimension)} cannot be split over {axes_text(dimension.axes)}="
    f"{dimension.parts} ({layout.name}: {shape}); split it over "
    f"{' or '.join(map(str, [below, *above]))}, or leave it whole with {whole}"
  )


def axes_text(axes: Sequence[str]) -> str:
  """Mesh axes as text, such as `mesh.data*mesh.fsdp`."""
  return "*".join(f"mesh.{axis}" for axis in axes)


def _field(config: fdl.Config, dimension: Dimension) -> str:
  """The config field that sets the dimension's size, as `path=value`, or its logical name."""
  name = (dimension.name or "").removeprefix("activation_")
  for field in _FIELDS.get(name, ()):
    for path, value, _ in walk(config):
      if path_text(path).split(".")[-1] == field and value == dimension.size:
        return f"{path_text(path)}={value}"
  return f"{dimension.name}={dimension.size}"


def warn_of_idle_axes(layouts: Sequence[Layout], mesh: Mapping[str, int]) -> None:
  """Notes mesh axes that split nothing, so that their devices repeat the same work."""
  used = {
    axis for layout in layouts for dimension in layout.dimensions for axis in dimension.axes
  }
  for axis, size in mesh.items():
    if size > 1 and axis not in used.union(BATCH_AXES):
      devices = math.prod(mesh.values())
      note(
        f"mesh.{axis}={size} splits nothing of this model: {devices // size * (size - 1)} of "
        f"{devices} devices repeat what others do."
      )


def vocabulary_split(rules: Rules, mesh: Mapping[str, int]) -> tuple[int, str]:
  """The number that must divide the rows of the vocabulary, and the mesh axes that cause it."""
  table = lay_out("vocabulary", (0, 0), ("vocab", "embed"), rules, mesh).dimensions[0]
  names = ("batch", "length", "activation_vocab")
  logits = lay_out("logits", (0, 0, 0), names, rules, mesh).dimensions[2]
  axes = dict.fromkeys(axis for axis in table.axes + logits.axes if mesh[axis] > 1)
  return math.lcm(table.parts, logits.parts), axes_text([*axes])
