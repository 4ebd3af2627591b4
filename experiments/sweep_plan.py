"""Plans a sweep before anything runs: resolves, type-checks and names every point.

A sweep's values are applied after all other overrides, so a path may not be both swept and set.
One swept path may contain another (optimizer, optimizer.learning_rate.peak): the outer one is
applied first, and none of its values may set the inner one.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import fiddle as fdl
from fiddle import daglish

from experiments.edits import find
from experiments.override_arguments import Override, OverrideErrors
from experiments.overrides import Applied
from experiments.paths import parse_path
from experiments.resolution import Resolved, resolve
from experiments.sweep_axes import Axis, read_axis
from layers.errors import UserError
from runners.configs.fields import as_node, field_of
from runners.configs.files import to_json
from runners.configs.old_names import with_first_names
from runners.configs.ranges import check_ranges
from runners.configs.tree import Path, flatten, format_value, nodes_at, path_text, walk

_NAME_LENGTH = 10  # 40 bits: a thousand points meet by chance once in two million sweeps


@dataclasses.dataclass(frozen=True)
class Point:
  """One run of a sweep.

  Attributes:
    name: a hash of the resolved config.
    values: swept path -> value as typed.
    overrides: the overrides that set these values.
    config: the resolved config.
  """

  name: str
  values: dict[str, str]
  overrides: tuple[Override, ...]
  config: fdl.Config


@dataclasses.dataclass(frozen=True)
class SweepPlan:
  """Every point of the product; the last path swept varies fastest."""

  exp: str
  points: tuple[Point, ...]
  warnings: tuple[str, ...]


def plan_sweep(
  exp: str | None, overrides: Sequence[Override], sweeps: Sequence[str]
) -> SweepPlan:
  """Resolves every point of the product of `sweeps`, each `PATH=V1,V2,...`.

  Raises:
    UserError: a value is wrong, a path is swept and set, or two points are the same run.
  """
  axes = [read_axis(text) for text in sweeps]
  base = resolve(exp, overrides, complete=False)
  paths = _canonical_paths(exp, overrides, axes)
  _check_axes(axes, paths, base.config)
  for axis, path in zip(axes, paths, strict=True):
    _check_not_set(axis, path, base)
  _check_values(exp, overrides, axes)
  _check_outer_values(exp, overrides, axes, paths)
  points = [
    _point(exp, overrides, dict(zip(map(path_text, paths), values, strict=True)))
    for values in itertools.product(*(axis.values for axis in axes))
  ]
  _check_distinct(points)
  return SweepPlan(base.exp, tuple(points), base.warnings)


def config_name(
  config: fdl.Config, exp: str, defaults_then: Mapping[str, str] = MappingProxyType({})
) -> str:
  """A short hash of the config: of every field that is not at its default, whoever set it.

  It depends on no order, machine or version of Python, nor on fields that come to be added with
  a default, nor on where a class stands: a newer version of the code goes on with the points of
  an older one. The defaults of a config.json's time (path -> value as text) count as defaults.
  """
  fields = _stated(config, defaults_then)
  stated = sorted((path, with_first_names(text)) for path, text in fields)
  facts = json.dumps([exp, stated])
  return hashlib.sha256(facts.encode()).hexdigest()[:_NAME_LENGTH]


def _stated(config: fdl.Config, defaults_then: Mapping[str, str]) -> Iterator[tuple[str, str]]:
  """(path, value as text) for the fields that differ from their defaults."""
  values = flatten(config)
  nodes: dict[Path, fdl.Buildable] = {(): config}
  for path, value, _ in walk(config):
    if isinstance(value, fdl.Buildable):
      nodes[path] = value
    owner, text = nodes.get(path[:-1]), values[path_text(path)]
    if owner is None or not isinstance(path[-1], daglish.Attr):  # an element of a container
      yield path_text(path), text
      continue
    field = field_of(owner, path[-1].name)
    now = None if field is None else format_value(field.default_value())
    if text != defaults_then.get(path_text(path), now):
      yield path_text(path), text


def _point(exp: str | None, overrides: Sequence[Override], values: dict[str, str]) -> Point:
  outer_first = sorted(values.items(), key=lambda item: _depth(item[0]))
  own = tuple(Override("set", f"{path}={value}") for path, value in outer_first)
  resolved = resolve(exp, (*overrides, *own))
  check_ranges(resolved.config)
  to_json(resolved.config, resolved.exp)  # what cannot be stored is refused now
  name = config_name(resolved.config, resolved.exp, resolved.defaults_then)
  return Point(name, values, own, resolved.config)


def _depth(path: str) -> int:
  return len(parse_path(path))


def _canonical_paths(
  exp: str | None, overrides: Sequence[Override], axes: Sequence[Axis]
) -> list[Path]:
  """Each axis' path, found in a config with the first values of axes that may contain it."""
  found: dict[Axis, Path] = {}
  outer: list[Override] = []
  for axis in sorted(axes, key=lambda axis: _depth(axis.path)):
    config = resolve(exp, (*overrides, *outer), complete=False).config
    found[axis] = _canonical(axis, config)
    outer.append(Override("sweep", f"{axis.path}={axis.values[0]}"))
  return [found[axis] for axis in axes]


def _canonical(axis: Axis, config: fdl.Config) -> Path:
  try:
    return find(config, parse_path(axis.path), new_key=True).path
  except UserError as error:
    raise UserError(f"{axis}: {error}") from error


def _check_axes(axes: Sequence[Axis], paths: Sequence[Path], config: fdl.Config) -> None:
  pairs = itertools.combinations(zip(axes, paths, strict=True), 2)
  for (one, path), (other, other_path) in pairs:
    same = path == other_path or any(
      _overlap(alias, other_path) for alias in _aliases(config, path) if alias != path
    )
    if same:
      raise UserError(f"{one} and {other} sweep the same field; drop one of them")


def _check_not_set(axis: Axis, path: Path, base: Resolved) -> None:
  for alias in _aliases(base.config, path):
    for applied in base.applied:
      if _decides(applied, alias, base.config):
        raise UserError(
          f"{path_text(path)} is swept by {axis} and set by {applied.who}; drop one of them"
        )


def _decides(applied: Applied, path: Path, config: fdl.Config) -> bool:
  """Whether an override gave the field at `path`, or one below it, a value.

  `--set=optimizer=@sgdm` leaves the learning rate open, `@sgdm(learning_rate=1.0)` does not.
  """
  text = path_text(path)
  if applied.path is None:
    return any(_overlap(parse_path(changed), path, above=False) for changed in applied.changed)
  if not applied.path:  # the whole config, from which the sweep starts
    return False
  if _overlap(applied.path, path, above=False):
    return True
  above = path[: len(applied.path)] == applied.path
  return above and _is_given(config, path) and text in applied.changed


def _overlap(one: Path, other: Path, *, above: bool = True) -> bool:
  """Whether `one` equals `other` or is below it; with `above`, also if it is above it."""
  shorter = min(len(one), len(other)) if above else len(other)
  return one[:shorter] == other[:shorter]


def _is_given(config: fdl.Config, path: Path) -> bool:
  """Whether the value at `path` was set, rather than a default."""
  for depth, step in enumerate(path):
    try:
      owner = find(config, path[:depth]).value
      find(config, path[: depth + 1])
    except UserError:  # a new key of a dict
      return False
    if isinstance(step, daglish.Attr) and step.name not in as_node(owner).__arguments__:
      return False
  return True


def _aliases(config: fdl.Config, path: Path) -> Iterator[Path]:
  """`path`, and all other paths to the same field of a shared config node."""
  yield path
  shared = nodes_at(config)
  for depth in range(len(path) - 1, 0, -1):
    places = shared.get(id(find(config, path[:depth]).value), [])
    if places:
      yield from (
        (*parse_path(place), *path[depth:])
        for place in places
        if place != path_text(path[:depth])
      )
      return


def _check_values(exp: str | None, overrides: Sequence[Override], axes: Sequence[Axis]) -> None:
  """Checks each value once, with the other axes' first values; reports all errors together."""
  first = {axis: axis.values[0] for axis in axes}
  errors: dict[str, None] = {}
  for axis in axes:
    for value in axis.values:
      chosen = sorted((first | {axis: value}).items(), key=lambda item: _depth(item[0].path))
      swept = [Override("sweep", f"{axis.path}={value}") for axis, value in chosen]
      try:
        resolve(exp, (*overrides, *swept))
      except OverrideErrors as error:
        errors |= dict.fromkeys(error.errors)
  if errors:
    raise OverrideErrors(list(errors))


def _check_outer_values(
  exp: str | None, overrides: Sequence[Override], axes: Sequence[Axis], paths: Sequence[Path]
) -> None:
  """Raises UserError if a value of an axis sets a field that another axis sweeps."""
  pairs = itertools.permutations(zip(axes, paths, strict=True), 2)
  for (outer, above), (inner, path) in pairs:
    if path[: len(above)] != above:
      continue
    for value in outer.values:
      own = Override("sweep", f"{outer.path}={value}")
      resolved = resolve(exp, (*overrides, own), complete=False)
      if _decides(resolved.applied[-1], path, resolved.config):
        raise UserError(f"{path_text(path)} is swept by {inner} and set by {own}; drop one")


def _check_distinct(points: Sequence[Point]) -> None:
  known: dict[str, Point] = {}
  for point in points:
    if (same := known.setdefault(point.name, point)) is not point:
      different = [
        f"{path}={same.values[path]} and {path}={value}"
        for path, value in point.values.items()
        if same.values[path] != value
      ]
      raise UserError(f"{', '.join(different)} are the same run; drop one of them")
