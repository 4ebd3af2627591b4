"""auto_attention takes the core that suits the platform, the mesh and the rows, and says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention_cores import auto as auto_attention
from layers.attention_cores import cudnn as cudnn_attention
from layers.masks import BlockCausal, causal_mask
from layers.sharding import partitioned
from layers.tokens import Tokens


class Mesh:
  """One device of a platform that is not there."""

  size = 1

  def __init__(self, platform):
    self.devices = np.array([type("Device", (), {"platform": platform})()])


@pytest.fixture
def chosen(monkeypatch):
  """Names the core for rows of a length on a platform, without running it."""
  said = []
  monkeypatch.setattr(auto_attention, "note", lambda text: said.append((None, text)))

  def choose(platform, length, mask=causal_mask, *, dtype="bfloat16", drop=None, keys=None):
    tokens = Tokens.unpacked(1, length)
    key_tokens = tokens if keys is None else Tokens.unpacked(1, keys)
    head = lambda n: jax.ShapeDtypeStruct((1, n, 1, 8), "float32")
    monkeypatch.setattr(
      auto_attention, "_said", lambda name, why, core: said.append((name, why)) or _mixed
    )
    said.clear()
    with partitioned(Mesh(platform), ()):
      jax.eval_shape(
        lambda q, k, v: auto_attention.auto_attention(
          q, k, v, tokens, key_tokens, mask=mask, compute_dtype=dtype, drop_weights=drop
        ),
        *(head(n) for n in (length, keys or length, keys or length)),
      )
    return said[-1][0], " ".join(why for _, why in said)

  return choose


def _mixed(query, *_, **__):
  return jnp.zeros(query.shape)


def _own_mask(queries, keys):
  return causal_mask(queries, keys)


@pytest.mark.parametrize(
  ("platform", "length", "mask", "core"),
  [
    ("cpu", 1024, causal_mask, "dense_attention"),
    ("cpu", 2048, causal_mask, "BlockwiseAttention"),
    ("tpu", 1024, causal_mask, "SplashAttention"),
    ("tpu", 2048, BlockCausal(size=5), "SplashAttention"),
    ("tpu", 65_536, causal_mask, "SplashAttention"),
    ("tpu", 65_537, causal_mask, "BlockwiseAttention"),
    ("tpu", 128, causal_mask, "dense_attention"),
    ("tpu", 2048, _own_mask, "BlockwiseAttention"),
  ],
)
def test_each_platform_gets_its_core(chosen, platform, length, mask, core):
  assert chosen(platform, length, mask)[0] == core


def test_a_gpu_gets_cudnn_only_where_it_is_installed_and_has_the_dtype(chosen, monkeypatch):
  name, why = chosen("cuda", 2048)
  assert name == "BlockwiseAttention"
  assert "finds no cuDNN" in why
  monkeypatch.setattr(cudnn_attention, "is_installed", lambda: True)
  assert chosen("cuda", 2048) == ("CudnnAttention", "rows of 2048 tokens on a GPU, with cuDNN")
  name, why = chosen("cuda", 2048, dtype="float32")
  assert name == "BlockwiseAttention"
  assert "has no float32" in why


def test_dropped_weights_and_generation_go_to_cores_that_have_them(chosen):
  assert chosen("tpu", 2048, drop=lambda weights: weights)[0] == "dense_attention"
  assert chosen("tpu", 1, keys=4096)[0] == "dense_attention"
  assert chosen("tpu", 2048, keys=4096)[0] == "BlockwiseAttention"
