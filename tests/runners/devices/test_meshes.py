"""A mesh uses every device once, and what does not fit is refused with the numbers."""

import jax
import numpy as np
import pytest

from layers.errors import UserError
from runners.devices.meshes import (
  AXES,
  DEFAULT_RULES,
  MeshShape,
  arrange,
  batch_sharding,
  check_batch,
  place,
)


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
    (16, {"dcn_data": 2, "fsdp": 8, "data": -1}, {"data": 2, "fsdp": 8}),
    (16, {"dcn_data": 2, "fsdp": 4, "data": -1}, {"data": 4, "fsdp": 4}),
    (16, {"dcn_fsdp": 4, "data": 1, "fsdp": 4}, {"fsdp": 16}),
  ],
)
def test_the_axis_of_minus_one_takes_what_the_others_leave(num_devices, axes, want):
  assert _sizes(num_devices, **axes) == want


@pytest.mark.parametrize(
  "num_devices, axes, said",
  [
    (8, {"fsdp": 3}, r"mesh data=-1, fsdp=3 does not fit 8 .* to 3, .* divide them; change"),
    (8, {"data": 4}, r"mesh data=4 does not fit 8 .* to 4; let data .*--set=mesh.data=-1$"),
    (8, {"data": 1}, r"mesh data=1 does not fit 8 .*--set=mesh.data=-1$"),
    (1, {"data": 1, "tensor": 2}, r"mesh tensor=2 does not fit 1 .* to 2; change one$"),
    (4, {"fsdp": 8}, r"data=-1, fsdp=8 does not fit 4 .* multiply to 8"),
    (8, {"fsdp": -1}, "data=-1, fsdp=-1: sizes are at least 1, and one axis at most may be -1"),
    (8, {"fsdp": 0}, "fsdp=0: sizes are at least 1"),
    (8, {"tensor": -2}, "tensor=-2: sizes are at least 1"),
    (8, {"dcn_data": 0}, "dcn_data=0: sizes are at least 1"),
    (8, {"dcn_data": 3}, r"data=-1, dcn_data=3 does not fit 8 .* multiply to 3, which"),
    (8, {"dcn_data": 2, "data": 1, "fsdp": 8}, r"fsdp=8, dcn_data=2 .* 8 .* to 16; change one"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_its_numbers(num_devices, axes, said):
  with pytest.raises(UserError, match=said):
    MeshShape(**axes).sizes(num_devices)


@pytest.mark.parametrize(
  "axes, want",
  [
    ({}, 6),
    ({"tensor": 3}, 6),  # and data=2
    ({"tensor": 4}, 4),  # which 6 devices are no multiple of
    ({"data": 4, "tensor": 2}, 8),
    ({"data": 1, "fsdp": 8, "dcn_data": 4}, 32),
  ],
)
def test_a_mesh_knows_how_many_devices_it_asks_for_with_six_at_hand(axes, want):
  assert MeshShape(**axes).num_devices(6) == want


def test_a_mesh_is_described_without_its_devices():
  mesh = MeshShape(fsdp=8, tensor=4).describe(4096)
  assert dict(mesh.shape) == {"data": 128, "fsdp": 8, "sequence": 1, "expert": 1, "tensor": 4}


class Device:
  """What mesh_utils asks of a device."""

  def __init__(self, number, platform, *, slices=None, process=0):
    self.id, self.platform, self.process_index = number, platform, process
    self.device_kind = platform
    if slices is not None:
      self.slice_index = slices

  def __repr__(self):
    return f"Device({self.id})"


def _ids(shape, devices):
  """Device ids along data, fsdp and tensor."""
  placed = arrange(shape.sizes(len(devices)), shape.slices(), devices)
  ids = np.vectorize(lambda device: device.id)(placed)
  return ids.reshape(ids.shape[0], ids.shape[1], ids.shape[4]).tolist()


CPUS = [Device(n, "cpu") for n in range(8)]
# Two nodes, whose devices are listed in turn: only slice_index tells which is where.
NODES = [Device(n, "gpu", slices=n % 2) for n in range(8)]
# As many processes as slices, on devices that know no slices.
PROCESSES = [Device(n, "gpu", process=n // 4) for n in range(8)]


@pytest.mark.parametrize(
  "devices, axes, want",
  [
    (CPUS, {"data": 2, "fsdp": 4}, [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]),
    (CPUS, {"dcn_data": 2, "fsdp": 4}, [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]),
    # data = 2 slices x 2: devices 0-3 are the first slice.
    (CPUS, {"dcn_data": 2, "tensor": 2}, [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]),
    # fsdp = 2 slices x 2, and data lies within: a row of data has devices of both slices.
    (CPUS, {"data": 2, "dcn_fsdp": 2, "fsdp": 2}, [[[0], [1], [4], [5]], [[2], [3], [6], [7]]]),
    (CPUS, {"data": 1, "dcn_fsdp": 4, "tensor": 2}, [[[0, 1], [2, 3], [4, 5], [6, 7]]]),
    (NODES, {"dcn_data": 2, "fsdp": 4}, [[[0], [2], [4], [6]], [[1], [3], [5], [7]]]),
    (
      NODES,
      {"data": 2, "dcn_fsdp": 2, "fsdp": 2},
      [[[0], [2], [1], [3]], [[4], [6], [5], [7]]],
    ),
    # Nothing said of slices: the outermost axes cross them, and tensor stays within.
    (NODES, {"data": 4, "tensor": 2}, [[[0, 2]], [[4, 6]], [[1, 3]], [[5, 7]]]),
    (NODES, {"data": 1, "fsdp": 8}, [[[0], [2], [4], [6], [1], [3], [5], [7]]]),
    (PROCESSES, {"dcn_data": 2, "tensor": 4}, [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]),
  ],
)
def test_an_axis_runs_within_a_slice_first_and_then_across(devices, axes, want):
  assert _ids(MeshShape(**axes), devices) == want


@pytest.mark.parametrize(
  "devices, axes, said",
  [
    (NODES, {"dcn_data": 4}, r"dcn_\* multiply to 4, and the 8 devices are in 2 slice\(s\) of"),
    (NODES, {"data": 1, "tensor": 8}, "tensor=8 cannot be laid over 2 slices"),
    (PROCESSES, {"dcn_data": 4}, r"multiply to 4, .* and 2 process\(es\)"),
    (NODES[:4] + NODES[4:7:2], {"dcn_data": 2}, r"2 slice\(s\) of \[2, 4\]"),
  ],
)
def test_slices_that_are_not_there_are_refused_with_the_numbers(devices, axes, said):
  with pytest.raises(UserError, match=said):
    _ids(MeshShape(**axes), devices)


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
