"""A checksum depends on the values alone, and on every bit of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runners.checkpoints import checksums
from runners.checkpoints.checksums import array_checksums, json_checksum


def _checksum(x):
  return array_checksums({"x": x})["x"]


def _random(shape, dtype, seed=0):
  values = np.random.default_rng(seed).standard_normal(shape) * 50
  return np.asarray(values).astype(dtype)


SHAPES = [(), (1,), (7,), (300, 5), (3, 70_000), (2, 3, 4, 5), (40_000, 1), (0, 3)]
DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_hosts_and_devices_compute_the_same(dtype):
  arrays = {str(shape): _random(shape, jnp.dtype(dtype)) for shape in SHAPES}
  sums = jax.device_get(checksums._sums_on_devices(jax.tree.map(jnp.asarray, arrays)))
  on_devices = {name: f"{first:08x}{second:08x}" for name, (first, second) in sums.items()}
  assert array_checksums(arrays) == on_devices
  assert array_checksums(jax.tree.map(jnp.asarray, arrays)) == on_devices


def test_words_of_eight_bytes_count_in_full():
  x = _random((5, 3), np.float64)
  changed = x.copy()
  changed.view(np.uint64)[4, 2] ^= 1
  assert _checksum(x) != _checksum(changed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_flipped_bit_changes_it(dtype):
  x = _random((6, 5), jnp.dtype(dtype))
  sums = {_checksum(x)}
  for place in range(x.nbytes):
    for bit in range(8):
      changed = x.copy()
      changed.view(np.uint8).reshape(-1)[place] ^= 1 << bit
      sums.add(_checksum(changed))
  assert len(sums) == 1 + 8 * x.nbytes


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x[::-1],
    lambda x: np.roll(x, 1),
    lambda x: np.roll(x, 1, axis=1),
    lambda x: x.T.reshape(x.shape),
    lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, x[0, 0], x),
    lambda x: np.zeros_like(x),
    lambda x: np.where(np.arange(len(x))[:, None] < 30, x, 0),
    lambda x: np.where(x == x[3, 3], -x, np.where(x == x[4, 4], -x, x)),  # two signs
  ],
)
def test_what_is_exchanged_shifted_or_zeroed_changes_it(change):
  x = _random((40, 50), np.float32)
  assert _checksum(np.ascontiguousarray(change(x))) != _checksum(x)


def test_no_exchange_of_two_words_goes_unnoticed():
  x = _random((8, 9), np.float32)
  sums = {_checksum(x)}
  for one in range(x.size):
    for other in range(one):
      flat = x.copy().reshape(-1)
      flat[[one, other]] = flat[[other, one]]
      sums.add(_checksum(flat.reshape(x.shape)))
  assert len(sums) == 1 + x.size * (x.size - 1) // 2


def test_the_sum_of_an_array_laid_out_over_devices_is_that_of_the_whole(run_with_devices):
  code = """
import itertools, jax, json, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from runners.checkpoints.checksums import array_checksums, _sums_on_devices
mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(4, 2), ("a", "b"))
x = np.random.default_rng(0).standard_normal((8, 3, 16)).astype(np.float32)
sums = set(array_checksums({"x": x}).values())
for spec in itertools.product((None, "a", "b", ("b", "a")), (None,), (None, "a", "b")):
  axes = [axis for part in spec for axis in ([part] if isinstance(part, str) else part or ())]
  if len(axes) == len(set(axes)):
    laid_out = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    sums |= set(array_checksums({"x": laid_out}).values())
    sums.add("".join(f"{part:08x}" for part in _sums_on_devices({"x": laid_out})["x"]))
print(json.dumps(len(sums)))
"""
  assert run_with_devices(8, code) == 1


def test_json_has_one_checksum_before_and_after_it_is_written():
  assert json_checksum({"a": (1, 2.5), 3: None}) == json_checksum({"a": [1, 2.5], "3": None})
  assert json_checksum({"a": 1}) != json_checksum({"a": 2})
