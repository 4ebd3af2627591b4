"""Laws 4 and 5: what cuDNN is asked for is dense attention, forward and backward.

The same calls with XLA's implementation in float32 stand for cuDNN's, which needs a GPU.
"""

import functools

import jax
import jax._src.lib
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import Attention
from layers.attention_cores import cudnn as cudnn_attention
from layers.attention_cores.cudnn import CudnnAttention, attend, dot_product
from layers.attention_cores.dense import dense_attention
from layers.attention_cores.request import AttentionRequest
from layers.errors import UserError
from layers.masks import causal_mask, full_mask
from layers.sharding import partitioned
from layers.tokens import Tokens
from tests.layers.attention_batches import (
  CASES,
  MASKS,
  assert_documents_apart,
  assert_like_dense,
  batch,
)

XLA = functools.partial(dot_product, "xla", "float32")


def on_xla(request):
  """What CudnnAttention(query_block=64) computes on one device.

  Outputs at padding do not matter; here they are the reference's.
  """
  is_token = (request.query_tokens.segments > 0)[..., None, None]
  mixed = attend(XLA, request.mask, 64, *request.operands)
  return jnp.where(is_token, mixed, dense_attention(request))


@pytest.mark.parametrize(("layout", "mask"), [*CASES, ("whole", "window"), ("whole", "full")])
def test_it_equals_the_dense_reference(layout, mask):
  assert_like_dense(on_xla, batch(layout, 150), MASKS[mask])


def test_it_keeps_packed_documents_apart():
  assert_documents_apart(on_xla, batch("packed", 70), causal_mask)


def test_a_query_that_may_see_nothing_gives_nothing():
  def before(queries, keys):
    earlier = queries.positions[:, :, None] > keys.positions[:, None, :]
    return causal_mask(queries, keys) & earlier

  q, k, v, tokens, _ = batch("packed", 40)
  request = AttentionRequest(q, k, v, tokens, tokens, mask=before)
  mixed, wanted = (jax.jit(core)(request) for core in (on_xla, dense_attention))
  np.testing.assert_allclose(mixed, wanted, atol=1e-5)
  assert not mixed[tokens.positions == 0].any()


def test_a_stored_mask_grows_linearly_with_the_length():
  def most_pairs(length):
    shapes = []

    def seen(query, key, value, mask=None, **_):
      if mask is not None:
        shapes.append(mask.shape)
      return query

    arrays = [jnp.zeros((1, length, 1, 8))] * 3
    tokens = Tokens.unpacked(1, length)
    jax.eval_shape(lambda: attend(seen, causal_mask, 64, *arrays, tokens, tokens))
    assert len(shapes) <= 8
    return max(np.prod(shape) for shape in shapes)

  assert most_pairs(1024) == 64 * 1024
  assert most_pairs(4096) == 64 * 4096


def test_rows_whose_padding_no_token_sees_take_the_branch_without_a_mask():
  def marked(query, key, value, mask=None, **_):
    return jnp.full(query.shape, 1.0 if mask is None else 2.0)

  without, with_one = 1.0, 2.0
  for layout, causal, full in (
    ("whole", without, without),
    ("packed", with_one, with_one),
    ("padded", without, with_one),
  ):
    q, k, v, tokens, _ = batch(layout, 20)
    for mask, wanted in ((causal_mask, causal), (full_mask, full)):
      found = jax.jit(functools.partial(attend, marked, mask, 64))(q, k, v, tokens, tokens)
      assert (found == wanted).all()


class _Mesh:
  """Of one device on NVIDIA's platform."""

  devices = np.array([type("Device", (), {"platform": "cuda"})()])
  size = 1


def _init(compute_dtype="bfloat16", head_dim=8, **fields):
  variables = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  core = CudnnAttention()
  fields |= {"compute_dtype": compute_dtype, "head_dim": head_dim}
  return Attention(2, core=core, **fields).init(
    variables, jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4)
  )


def test_attention_weights_cannot_be_dropped():
  with pytest.raises(UserError, match="CudnnAttention has no dropout .* core=@dense"):
    _init(dropout_rate=0.1)


def test_a_cpu_is_refused():
  with pytest.raises(UserError, match="runs on NVIDIA's GPUs, not on cpu .core=@Blockwise"):
    _init()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"compute_dtype": "float32"}, "has no float32: set precision.compute_dtype=bfloat16"),
    (
      {"head_dim": 12},
      "has no heads of 12 features: choose a head_dim that is a multiple of 8",
    ),
    ({"head_dim": 136}, "has no heads of 136 features: .* at most 128"),
    ({}, "finds no cuDNN: pip install 'strata.gpu.'"),
  ],
)
def test_what_cudnn_cannot_compute_is_refused_with_the_cure(fields, message):
  with partitioned(_Mesh(), ()), pytest.raises(UserError, match=f"CudnnAttention {message}"):
    _init(**fields)


@pytest.mark.parametrize(("capability", "most"), [("8.9", 128), ("9.0", 256), ("12.0", 256)])
def test_heads_are_as_wide_as_jax_takes_on_the_gpu_at_hand(capability, most, monkeypatch):
  client = type("Client", (), {"platform_version": "cuda 12.9"})
  device = type("Device", (), {"compute_capability": capability, "client": client})
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "local_devices", lambda backend: [device])
  monkeypatch.setattr(cudnn_attention, "is_installed", lambda: True)
  with partitioned(_Mesh(), ()):
    assert cudnn_attention.refusal(most, "bfloat16") is None
    assert f"at most {most} " in (cudnn_attention.refusal(most + 8, "bfloat16") or "")


@pytest.mark.parametrize(
  ("version", "on_several"), [("0.11.2", "ends the compiler"), ("0.12.0", None)]
)
def test_a_compiler_that_crashes_on_several_gpus_is_not_given_the_kernels(
  version, on_several, monkeypatch
):
  monkeypatch.setattr(cudnn_attention, "is_installed", lambda: True)
  monkeypatch.setattr(jax, "__version__", version)
  with partitioned(_Mesh(), ()):
    assert cudnn_attention.refusal(64, "bfloat16") is None
  several = _Mesh()
  several.size = 2
  with partitioned(several, ()):
    refusal = cudnn_attention.refusal(64, "bfloat16")
  assert refusal is on_several or (refusal or "").startswith(f"{on_several} of jax {version}")


def test_cudnn_is_looked_for_where_jax_looks():
  """The name is not public: were it gone, cuDNN would never be found."""
  assert hasattr(jax._src.lib, "cuda_versions")
  assert not cudnn_attention.is_installed()


@pytest.mark.parametrize("found", [91000, None])
def test_the_plugin_alone_is_no_cudnn(found, monkeypatch):
  class Versions:
    @staticmethod
    def cudnn_get_version():
      if found is None:
        raise RuntimeError("cuDNN not found.")
      return found

  monkeypatch.setattr(jax._src.lib, "cuda_versions", Versions)
  assert cudnn_attention.is_installed() == (found is not None)


def test_a_query_block_that_is_no_multiple_is_refused():
  with pytest.raises(UserError, match="query_block is not a multiple of 64"):
    CudnnAttention(query_block=100)
