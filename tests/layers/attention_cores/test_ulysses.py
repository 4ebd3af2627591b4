"""Laws 4 and 5: trading tokens for heads is dense attention, forward and backward."""

import jax
import jax.numpy as jnp
import pytest

from layers.attention import Attention
from layers.attention_cores.ulysses import UlyssesAttention, key_repeats
from layers.errors import UserError
from layers.tokens import Tokens

CODE = """
import json
import jax, numpy as np
from jax.sharding import Mesh
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.sharding import partitioned
from layers.attention_cores.ulysses import UlyssesAttention
from runners.devices.meshes import DEFAULT_RULES
from tests.layers.attention_batches import *
mesh = Mesh(np.array(jax.devices()).reshape({shape}), ("data", "fsdp", "sequence", "tensor"))
with partitioned(mesh, DEFAULT_RULES):
  core = UlyssesAttention(core=BlockwiseAttention(query_block=8, key_block=8))
  case = batch("packed", 37, num_heads={heads}, num_kv_heads={kv_heads})
  assert_like_dense(core, case, MASKS["{mask}"])
  if {apart}:
    assert_documents_apart(core, case, MASKS["{mask}"])
print(json.dumps("equal"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("shape", "heads", "kv_heads", "mask", "apart"),
  [
    ((1, 1, 2, 1), 4, 2, "window", True),
    ((1, 1, 4, 1), 8, 2, "block_causal", False),
    ((1, 1, 8, 1), 8, 1, "causal", False),
    ((1, 2, 2, 2), 12, 6, "causal", False),
  ],
)
def test_it_equals_the_dense_reference(shape, heads, kv_heads, mask, apart, run_with_devices):
  values = {"shape": shape, "heads": heads, "kv_heads": kv_heads, "mask": mask}
  size = shape[0] * shape[1] * shape[2] * shape[3]
  assert run_with_devices(size, CODE.format(**values, apart=apart)) == "equal"


def test_keys_are_repeated_as_little_as_needed():
  assert key_repeats(8, 4, 2) == 1
  assert key_repeats(8, 2, 4) == 2
  assert key_repeats(12, 6, 4) == 2
  assert key_repeats(8, 1, 8) == 8


def test_heads_that_do_not_divide_are_refused():
  with pytest.raises(UserError, match="6 query heads .* over 4 devices .* core=@RingAttention"):
    key_repeats(6, 2, 4)


def test_attention_weights_cannot_be_dropped():
  with pytest.raises(UserError, match="UlyssesAttention has no dropout .* core=@dense"):
    Attention(2, core=UlyssesAttention(), dropout_rate=0.1).init(
      {"params": jax.random.key(0), "dropout": jax.random.key(1)},
      jnp.ones((1, 4, 8)),
      Tokens.unpacked(1, 4),
    )
