"""A mesh uses every device once, and what does not fit is refused with the numbers."""

import jax
import numpy as np
import pytest

from layers.errors import UserError
from runners.meshes import AXES, DEFAULT_RULES, MeshShape, batch_sharding, check_batch, place


def _sizes(num_devices, **axes):
  sizes = MeshShape(**axes).sizes(num_devices)
  assert tuple(sizes) == AXES
  return {axis: size for axis, size in sizes.items() if size > 1}


@pytest.mark.parametrize(
  "num_devices, axes, want",
  [
    (1, {}, {}),
    (8, {}, {"data": 8}),
    (8, {"fsdp": 2}, {"data": 4, "fsdp": 2}),
    (8, {"data": 1, "fsdp": -1}, {"fsdp": 8}),
    (8, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}),
    (8, {"fsdp": 8}, {"fsdp": 8}),
    (12, {"data": 2, "tensor": 3, "sequence": -1}, {"data": 2, "tensor": 3, "sequence": 2}),
    (1, {"data": 1}, {}),
  ],
)
def test_the_axis_of_minus_one_takes_what_the_others_leave(num_devices, axes, want):
  assert _sizes(num_devices, **axes) == want


@pytest.mark.parametrize(
  "num_devices, axes, said",
  [
    (8, {"fsdp": 3}, r"data=-1, fsdp=3 does not fit 8 device\(s\).*--set=mesh.data=-1"),
    (8, {"data": 4}, r"mesh data=4 does not fit 8 device\(s\).*--set=mesh.data=-1"),
    (8, {"data": 1}, r"mesh of one device does not fit 8 device\(s\)"),
    (1, {"data": 1, "tensor": 2}, r"mesh tensor=2 does not fit 1 device\(s\)"),
    (4, {"fsdp": 8}, r"fsdp=8 does not fit 4"),
    (8, {"fsdp": -1}, "data=-1, fsdp=-1: sizes are at least 1, and one at most may be -1"),
    (8, {"fsdp": 0}, "fsdp=0: sizes are at least 1"),
    (8, {"tensor": -2}, "tensor=-2: sizes are at least 1"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_its_numbers(num_devices, axes, said):
  with pytest.raises(UserError, match=said):
    MeshShape(**axes).sizes(num_devices)


def test_every_rule_names_a_mesh_axis_and_no_logical_axis_has_two():
  names = [name for name, _ in DEFAULT_RULES]
  assert len(names) == len(set(names))
  for _, axes in DEFAULT_RULES:
    axes = (axes,) if isinstance(axes, str) else axes or ()
    assert set(axes) <= set(AXES)


def test_a_batch_that_the_devices_do_not_divide_is_refused_with_the_next_that_is():
  mesh = jax.sharding.AbstractMesh((3, 2, 1, 1, 1), AXES)
  check_batch("batch_size", 12, mesh)
  with pytest.raises(UserError, match="batch_size=8 is not a multiple of the 6 .* is: 12"):
    check_batch("batch_size", 8, mesh)


def test_a_placed_batch_is_the_batch():
  mesh = MeshShape().build()
  batch = {"a": np.arange(6).reshape(2, 3), "b": np.ones(2, np.float32)}
  placed = place(batch, batch_sharding(mesh))
  for key, rows in batch.items():
    np.testing.assert_array_equal(placed[key], rows)
    assert placed[key].sharding == batch_sharding(mesh)
