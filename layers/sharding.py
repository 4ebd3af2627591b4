"""Logical axis names, and the one place that maps them to a mesh.

A parameter names each of its dimensions (`partitioned_init`), and an important activation is
constrained by names (`constrain`). The experiment has the rules from logical names to mesh
axes; layers never see the mesh. Names in use:

  parameters    vocab, position, embed, heads, kv_heads, head_dim, mlp, layers
  activations   batch, length, activation_embed, activation_heads, activation_kv_heads,
                activation_mlp, activation_vocab; cache_length: slots of layers/cache.py;
                residual_length: the length of the stream between the products, the same as
                "length" unless a rule names it
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

# A logical axis without a rule -> the axis whose rule it follows.
_GOES_WITH = {"residual_length": "length"}

_MESH: contextvars.ContextVar[jax.sharding.Mesh | None] = contextvars.ContextVar(
  "mesh", default=None
)
_ON_A_DEVICE: contextvars.ContextVar[bool] = contextvars.ContextVar(
  "on_a_device", default=False
)
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)
_SEEN: contextvars.ContextVar[list["Constraint"] | None] = contextvars.ContextVar(
  "seen", default=None
)


class Constraint(NamedTuple):
  """A layer's constraint on one activation: a logical name for each dimension."""

  names: tuple[str | None, ...]
  shape: tuple[int, ...]


@contextlib.contextmanager
def partitioned(mesh: jax.sharding.Mesh, rules: Rules) -> Iterator[None]:
  """In the `with` block, `constrain` uses this mesh and these rules."""
  token = _MESH.set(mesh)
  try:
    with nn.logical_axis_rules(rules):
      yield
  finally:
    _MESH.reset(token)


@contextlib.contextmanager
def constraints_seen() -> Iterator[list[Constraint]]:
  """Lists all calls of `constrain` in the `with` block, as when a model is traced in it."""
  seen: list[Constraint] = []
  token = _SEEN.set(seen)
  try:
    yield seen
  finally:
    _SEEN.reset(token)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Asks the compiler to shard `x` by these logical axes; without a mesh, returns x."""
  if (seen := _SEEN.get()) is not None:
    seen.append(Constraint(names, x.shape))
  mesh = _mesh_to_split()
  if mesh is None:
    return x
  names = names_in(nn.get_logical_axis_rules(), names)
  return nn.spmd.with_logical_constraint(x, names, mesh=mesh)


def names_in(rules: Rules, names: Sequence[str | None]) -> tuple[str | None, ...]:
  """The logical axes, each replaced by the axis it follows if no rule names it."""
  known = {name for name, _ in rules}
  return tuple(_GOES_WITH.get(str(n), n) if n not in known else n for n in names)


def partitioned_init(init: nn.initializers.Initializer, *names: str) -> Any:
  """`init` whose result carries the logical name of each dimension."""
  return nn.with_logical_partitioning(init, names)


def per_device(
  function: Callable, inputs: tuple[Any, ...], output: Any, within: Any = ()
) -> Callable:
  """`function` run on every device with that device's parts; without a mesh, unchanged.

  Inside `function` there is no mesh, only its platform, so it may call `per_device` again.

  A logical axis is split as `axis_devices` says for all these arrays, but only if its devices
  divide every dimension with that name; otherwise each device gets all of it. The output may
  only have names of the inputs.

  Args:
    function: of arrays and trees of arrays.
    inputs: for each argument a tree of tuples, the logical name of each dimension or None.
    output: likewise for the result.
    within: likewise for larger arrays of which `function` makes each device's part.
  """
  mesh = _mesh_to_split()
  if mesh is None:
    return function

  def local(*arguments: Any) -> Any:
    token = _ON_A_DEVICE.set(True)
    try:
      return function(*arguments)
    finally:
      _ON_A_DEVICE.reset(token)

  def split(*arguments: Any) -> Any:
    axes = _agreed_axes((inputs, output, within))
    undivided = _undivided(mesh, axes, inputs, arguments)
    whole = lambda name: name is None or name in undivided
    spec = lambda names: PartitionSpec(*(None if whole(n) else axes[n] for n in names))
    specs = jax.tree.map(spec, (inputs, output), is_leaf=_is_names)
    return jax.shard_map(
      local, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False
    )(*arguments)

  return split


@contextlib.contextmanager
def on_platform(name: str) -> Iterator[None]:
  """In the `with` block, code without a mesh is for this platform instead of jax's default."""
  token = _PLATFORM.set(name)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


def on_mesh() -> bool:
  """Whether a program for devices is traced; otherwise only shapes are wanted."""
  return _MESH.get() is not None


def platform() -> str:
  """ "cpu", "gpu" or "tpu": the platform of the mesh, whose devices may be absent here."""
  mesh = _MESH.get()
  name = mesh.devices.flat[0].platform if mesh is not None else _PLATFORM.get()
  name = name or jax.default_backend()
  return "gpu" if name == "cuda" else name


def axis_devices(name: str, arrays: Any = None) -> tuple[tuple[str, ...], int]:
  """The mesh axes over which a logical axis is split, and the number of devices along them.

  An array uses a mesh axis once, by the first rule that applies. If for that reason two arrays
  would split a logical axis differently, it is not split at all.

  Args:
    name: of the logical axis.
    arrays: a tree of tuples, the logical name of each dimension or None, as for `per_device`;
      None: one array with only this axis.
  """
  mesh = _mesh_to_split()
  if mesh is None:
    return (), 1
  axes = _agreed_axes((name,) if arrays is None else arrays)[name]
  return axes, math.prod(mesh.shape[axis] for axis in axes)


def dividing_axes(name: str, size: int, arrays: Any) -> tuple[str, ...]:
  """The mesh axes over which `per_device` splits a dimension with this name and size.

  Args:
    name: of the logical axis.
    size: of the dimension.
    arrays: see `axis_devices`.
  """
  axes, num_devices = axis_devices(name, arrays)
  return () if num_devices == 1 or size % num_devices else axes


def is_split() -> bool:
  """Whether arrays may be split over several devices at this point."""
  return _mesh_to_split() is not None


def _mesh_to_split() -> Any:
  """The mesh in use; None for a single device, and inside `per_device`."""
  mesh = _MESH.get()
  return None if mesh is None or mesh.size == 1 or _ON_A_DEVICE.get() else mesh


def _agreed_axes(arrays: Any) -> dict[str, tuple[str, ...]]:
  """Logical name -> the mesh axes on which all arrays with that name agree; else ()."""
  agreed: dict[str, tuple[str, ...]] = {}
  for names in jax.tree.leaves(arrays, is_leaf=_is_names):
    found = nn.spmd.logical_to_mesh_axes(names) or ()
    for name, axes in zip(names, found, strict=True):
      if name is not None:
        axes = axes if isinstance(axes, tuple) else () if axes is None else (axes,)
        agreed[name] = axes if agreed.get(name, axes) == axes else ()
  return agreed


def _undivided(
  mesh: Any, axes: dict[str, tuple[str, ...]], names: Any, arrays: Any
) -> set[str]:
  """Logical names of dimensions that are not divisible by their mesh axes."""
  pairs = zip(jax.tree.leaves(names, is_leaf=_is_names), jax.tree.leaves(arrays), strict=True)
  return {
    name
    for dimensions, array in pairs
    for name, size in zip(dimensions, array.shape, strict=True)
    if name is not None and size % math.prod(mesh.shape[axis] for axis in axes[name])
  }


def _is_names(x: Any) -> bool:
  return type(x) is tuple and all(name is None or isinstance(name, str) for name in x)
