"""Laws 4 and 5: ring attention on any ring is dense attention, forward and backward."""

import pytest

from layers.attention_blocks import Blocks
from layers.masks import causal_mask
from layers.ring_attention import met_pairs, own_pairs

CODE = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from layers.ring_attention import RingAttention
from layers.sharding import partitioned
from runners.meshes import DEFAULT_RULES
from tests.layers.attention_batches import *
shape, cases, length = {shape}, {cases}, {length}
mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "fsdp", "sequence", "tensor"))
with partitioned(mesh, DEFAULT_RULES):
  core = RingAttention(query_block=4, key_block=3)
  for layout, mask in cases:
    assert_like_dense(core, batch(layout, length), MASKS[mask])
    assert_documents_apart(core, batch(layout, length), MASKS[mask])
print(json.dumps("equal"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("ring", "masks"),
  [(2, ["full"]), (3, ["window", "block_causal"]), (5, ["causal"]), (8, ["causal"])],
)
def test_rings_of_any_size_equal_the_dense_reference(ring, masks, run_with_devices):
  cases = [("packed", mask) for mask in masks]
  code = CODE.format(shape=(1, 1, ring, 1), cases=cases, length=8 * ring + 3)
  assert run_with_devices(ring, code) == "equal"


@pytest.mark.slow
def test_a_ring_beside_other_axes_equals_the_dense_reference(run_with_devices):
  code = CODE.format(shape=(1, 2, 2, 2), cases='[("packed", "causal")]', length=32)
  assert run_with_devices(8, code) == "equal"


def test_the_most_loaded_device_of_eight_does_as_much_as_the_mean():
  length, ring, blocks = 128, 8, Blocks(16, 16, causal_mask, "float32")
  work = [len(own_pairs(length, blocks)) for _ in range(ring)]
  for here in range(ring):
    for there in range(ring):
      if there != here:
        work[here] += len(met_pairs(length, blocks, there > here))
  assert max(work) <= 1.1 * sum(work) / ring
  assert sum(work) <= 0.6 * (ring * length // 16) ** 2
