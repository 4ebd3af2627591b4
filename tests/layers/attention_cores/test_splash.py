"""Laws 4 and 5: splash attention is dense attention, forward and backward."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import Attention
from layers.attention_cores import splash_kernels
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.ring import RingAttention
from layers.attention_cores.splash import SplashAttention
from layers.errors import UserError
from layers.masks import causal_mask
from layers.sharding import on_platform, partitioned, platform
from layers.tokens import Tokens
from tests.layers.attention_batches import (
  MASKS,
  assert_documents_apart,
  assert_like_dense,
  batch,
)

CORE = SplashAttention(query_block=128, key_block=128)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("layout", "mask", "num_kv_heads"),
  [
    ("padded", "causal", 4),
    ("packed", "full", 1),
    ("packed", "window", 2),
    ("packed", "block_causal", 2),
  ],
)
def test_it_equals_the_dense_reference(layout, mask, num_kv_heads):
  assert_like_dense(CORE, batch(layout, 150, num_kv_heads=num_kv_heads), MASKS[mask])


@pytest.mark.slow
def test_it_keeps_packed_documents_apart():
  packed = batch("packed", 140, num_rows=1)
  assert_like_dense(CORE, packed, causal_mask)
  assert_documents_apart(CORE, packed, causal_mask)


def _init(**fields):
  variables = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  attention = Attention(2, core=CORE, **fields)
  return attention.init(variables, jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4))


def test_attention_weights_cannot_be_dropped():
  with pytest.raises(UserError, match="SplashAttention has no dropout .* core=@dense"):
    _init(dropout_rate=0.1)


def test_a_mask_of_ones_own_is_refused():
  with pytest.raises(UserError, match="does not know the mask .* core=@BlockwiseAttention"):
    _init(mask=lambda queries, keys: causal_mask(queries, keys))


@pytest.mark.parametrize("size", [0, 64, 200])
def test_blocks_that_no_kernel_has_are_refused(size):
  with pytest.raises(UserError, match=f"a block of {size} tokens is not a multiple of 128"):
    SplashAttention(key_block=size)


def _mesh_of(name):
  """A mesh of one device that says it is of the platform `name`."""
  device = type("Device", (), {"platform": name})()
  return type("FakeMesh", (), {"devices": np.array([device]), "size": 1})()


@pytest.mark.parametrize(
  ("name", "known_as"), [("cuda", "gpu"), ("gpu", "gpu"), ("tpu", "tpu")]
)
def test_the_platform_is_that_of_the_mesh(name, known_as):
  with partitioned(_mesh_of(name), ()):
    assert platform() == known_as
  assert platform() == "cpu"


def test_a_gpu_is_refused():
  with (
    partitioned(_mesh_of("cuda"), ()),
    pytest.raises(UserError, match="SplashAttention runs on TPU: .* core=@CudnnAttention"),
  ):
    _init()


@pytest.mark.parametrize("core", [CORE, RingAttention(inner=CORE), RingAttention()])
def test_who_asks_for_shapes_alone_makes_no_kernel(core, monkeypatch):
  monkeypatch.setattr(splash_kernels, "_made", lambda *_, **__: pytest.fail("a kernel is made"))
  heads, tokens = jnp.ones((1, 256, 2, 8)), Tokens.unpacked(1, 256)
  with on_platform("tpu"):
    request = lambda x: AttentionRequest(x, x, x, tokens, tokens)
    mixed = jax.eval_shape(lambda x: core(request(x)), heads)
  assert mixed.shape == heads.shape


def test_pallas_is_imported_only_when_it_computes():
  code = (
    "import sys, layers.attention_cores.splash; print('jax.experimental.pallas' in sys.modules)"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert result.stdout.strip() == "False", result.stderr


COMPILED = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from layers.masks import BlockCausal, SlidingWindow, causal_mask
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.ring import RingAttention
from layers.sharding import partitioned
from layers.attention_cores.splash import SplashAttention
from layers.tokens import Tokens
from runners.devices.meshes import DEFAULT_RULES
devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
def kernels(core, shape, head_dim, mask, length=600):
  mesh = Mesh(np.array(devices).reshape(shape), ("data", "fsdp", "sequence", "tensor"))
  def loss(query, key, value, positions, segments):
    tokens = Tokens(positions, segments, jnp.arange(4))
    with partitioned(mesh, DEFAULT_RULES):
      heads = query, key, value
      request = AttentionRequest(*heads, tokens, tokens, mask=mask, compute_dtype="bfloat16")
      mixed = core(request)
    return mixed.sum()
  rows = NamedSharding(mesh, P(("data", "fsdp")))
  array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
  heads = [array((4, length, n, head_dim), "float32") for n in (4, 2, 2)]
  tokens = [array((4, length), "int32")] * 2
  lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*heads, *tokens)
  return lowered.compile().as_text().count('custom_call_target="tpu_custom_call"')
splash, ring = SplashAttention(), RingAttention()
print(json.dumps([
  kernels(splash, (2, 2, 1, 2), 80, SlidingWindow(size=99)),
  kernels(splash, (2, 2, 1, 2), 128, BlockCausal(size=48)),
  kernels(ring, (1, 2, 4, 1), 128, causal_mask, length=1024),
  kernels(ring, (1, 2, 4, 1), 128, SlidingWindow(size=99), length=1024),
]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="compiling for TPU takes libtpu"
)
def test_it_compiles_for_a_tpu_that_is_not_there():
  libtpu = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
  result = subprocess.run(
    [sys.executable, "-c", COMPILED],
    env={**os.environ, **libtpu},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  # Forward, queries, keys; in a ring one call of each
  # for its own keys, two in its last step and two in its others. A ring
  # does not know a window's kernel.
  assert json.loads(result.stdout.splitlines()[-1]) == [3, 3, 15, 0]
