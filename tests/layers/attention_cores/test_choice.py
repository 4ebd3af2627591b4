"""One function takes the kernel for a device's rows, for auto_attention and for rings alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import notices
from layers.attention_cores import auto, choice
from layers.attention_cores import cudnn as cudnn_attention
from layers.attention_cores.auto import auto_attention, chosen
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.choice import kernel_for
from layers.attention_cores.dense import dense_attention
from layers.attention_cores.request import AttentionRequest, core_name
from layers.attention_cores.ring import RingAttention
from layers.attention_cores.ulysses import UlyssesAttention
from layers.dropout import Drop
from layers.masks import BlockCausal, SlidingWindow, causal_mask, full_mask
from layers.sharding import partitioned
from layers.tokens import Tokens


class Mesh:
  """One device of a platform that is not there."""

  size = 1

  def __init__(self, platform):
    self.devices = np.array([type("Device", (), {"platform": platform})()])


def _request(length, mask=causal_mask, *, dtype="bfloat16", drop=None, keys=None):
  """Of one row of heads of 8 features that have shapes alone."""
  tokens = Tokens.unpacked(1, 1)  # no choice goes by coordinates
  key_tokens = tokens if keys is None else Tokens.unpacked(1, 1)
  head = lambda n: jax.ShapeDtypeStruct((1, n, 1, 8), "float32")
  heads = head(length), head(keys or length), head(keys or length)
  return AttentionRequest(
    *heads, tokens, key_tokens, mask=mask, compute_dtype=dtype, drop_weights=drop
  )


def _taken(platform, request, choose=chosen, **options):
  """The name of the core, and all that is said of it."""
  with notices.heard(aloud=False) as heard, partitioned(Mesh(platform), ()):
    core, why = choose(request, **options)
  return core_name(core), " ".join([*heard, why])


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
def test_each_platform_gets_its_core(platform, length, mask, core):
  assert _taken(platform, _request(length, mask))[0] == core


def test_a_gpu_gets_cudnn_only_where_it_is_installed_and_has_the_dtype(monkeypatch):
  name, why = _taken("cuda", _request(2048))
  assert name == "BlockwiseAttention"
  assert "finds no cuDNN" in why
  monkeypatch.setattr(cudnn_attention, "is_installed", lambda: True)
  wanted = "CudnnAttention", "rows of 2048 tokens on a GPU, with cuDNN"
  assert _taken("cuda", _request(2048)) == wanted
  name, why = _taken("cuda", _request(2048, dtype="float32"))
  assert name == "BlockwiseAttention"
  assert "has no float32" in why


def test_dropped_weights_and_generation_go_to_cores_that_have_them():
  drop = Drop(0.1, jax.random.key(0), jnp.arange(1))
  assert _taken("tpu", _request(2048, drop=drop))[0] == "dense_attention"
  assert _taken("tpu", _request(1, keys=4096))[0] == "dense_attention"
  assert _taken("tpu", _request(2048, keys=4096))[0] == "BlockwiseAttention"


@pytest.mark.parametrize(
  ("platform", "length", "mask", "core"),
  [
    ("cpu", 64, causal_mask, "BlockwiseAttention"),
    ("tpu", 4 * 65_536, causal_mask, "SplashAttention"),
    ("tpu", 4 * 65_536 + 1, causal_mask, "BlockwiseAttention"),
    ("tpu", 64, full_mask, "SplashAttention"),
    ("tpu", 4096, SlidingWindow(size=9), "BlockwiseAttention"),
    ("cuda", 4096, causal_mask, "BlockwiseAttention"),
  ],
)
def test_the_steps_of_a_ring_get_kernels_that_tell_the_log_of_their_sums(
  platform, length, mask, core, monkeypatch
):
  monkeypatch.setattr(cudnn_attention, "is_installed", lambda: True)
  assert _taken(platform, _request(length, mask), kernel_for, ring_size=4)[0] == core


@pytest.mark.bits
def test_auto_attention_a_ring_and_ulysses_go_by_the_same_choice(monkeypatch):
  asked = []

  def seen(request, *, ring_size=None):
    asked.append(ring_size)
    return choice.Choice(dense_attention, "this is a test")

  for module in ("auto", "ring"):
    monkeypatch.setattr(f"layers.attention_cores.{module}.kernel_for", seen)
  heads, tokens = jnp.ones((3, 1, 4, 2, 8)), Tokens.unpacked(1, 4)
  request = AttentionRequest(*heads, tokens, tokens)
  for core in (auto_attention, RingAttention(), UlyssesAttention()):
    np.testing.assert_array_equal(core(request), dense_attention(request))
  assert asked == [None, 1, None]
  RingAttention(inner=BlockwiseAttention())(request)
  assert len(asked) == 3


def test_the_choice_goes_on_record_with_its_reason(monkeypatch):
  monkeypatch.setattr(auto, "on_mesh", lambda: True)
  heads, tokens = jnp.ones((3, 1, 4, 2, 8)), Tokens.unpacked(1, 4)
  with notices.heard() as heard:
    auto_attention(AttentionRequest(*heads, tokens, tokens))
  assert heard == ["Attention is dense_attention: 4 x 4 scores are few."]
