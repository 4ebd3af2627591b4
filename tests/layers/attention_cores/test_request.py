"""A core is called with one object; one of the old signature is told so in one line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention import Attention
from layers.attention_cores.auto import auto_attention
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.cudnn import CudnnAttention
from layers.attention_cores.dense import dense_attention
from layers.attention_cores.request import AttentionRequest, attend_with
from layers.attention_cores.ring import RingAttention
from layers.attention_cores.splash import SplashAttention
from layers.attention_cores.ulysses import UlyssesAttention
from layers.dropout import Drop
from layers.errors import UserError
from layers.masks import SlidingWindow, causal_mask, full_mask
from layers.tokens import Tokens
from tests.layers.attention_batches import batch

CORES = [
  dense_attention,
  auto_attention,
  BlockwiseAttention(),
  CudnnAttention(),
  RingAttention(),
  SplashAttention(),
  UlyssesAttention(),
]


def _request(**fields):
  query, key, value, tokens, _ = batch("packed", 12)
  return AttentionRequest(query, key, value, tokens, tokens, **fields)


@pytest.mark.parametrize("core", CORES, ids=lambda core: getattr(core, "__name__", None))
def test_every_core_takes_one_request(core):
  """For keys that are not of the queries' tokens, which every core has on any platform."""
  query, key, value, tokens, _ = batch("packed", 12)
  request = AttentionRequest(query, key, value, tokens, dataclasses.replace(tokens))
  wanted = dense_attention(request)
  np.testing.assert_allclose(attend_with(core, request), wanted, atol=1e-5)


def test_a_request_goes_through_transformations_as_a_tree_of_its_arrays():
  request = _request(mask=full_mask, compute_dtype="bfloat16")
  assert len(jax.tree.leaves(request)) == 3 + 3
  again = jax.tree.map(lambda x: x, request)
  assert (again.mask, again.compute_dtype) == (full_mask, "bfloat16")
  assert again.same_tokens and again.query_tokens is not request.query_tokens
  other = dataclasses.replace(request, key_tokens=Tokens.unpacked(2, 12))
  assert not jax.tree.map(lambda x: x, other).same_tokens
  wanted = dense_attention(request)
  np.testing.assert_allclose(jax.jit(dense_attention)(request), wanted, atol=1e-2)


def test_dropout_travels_in_a_request():
  drop = Drop(0.5, jax.random.key(3), jnp.arange(2))
  request = _request(drop_weights=drop)
  found, without = jax.jit(dense_attention)(request), dense_attention(_request())
  np.testing.assert_allclose(found, dense_attention(request), atol=1e-5)
  assert not np.allclose(found, without)


class _OldCore:
  """As cores were: an argument for each thing."""

  def __call__(
    self, query, key, value, query_tokens, key_tokens, *, mask, compute_dtype, drop_weights
  ):
    raise AssertionError("it is not called")


def _old_core(query, key, value, query_tokens, key_tokens, **options):
  raise AssertionError("it is not called")


def _old_core_of_any_number(query, *others, **options):
  raise AssertionError("it is not called")


OLD = [_OldCore(), _old_core, _old_core_of_any_number]


@pytest.mark.parametrize("core", OLD, ids=["object", "function", "any number"])
@pytest.mark.parametrize("within", [False, True], ids=["alone", "in ulysses"])
def test_a_core_of_the_old_signature_is_told_what_changed_in_one_line(core, within):
  attention = Attention(2, core=UlyssesAttention(core=core) if within else core)
  with pytest.raises(UserError) as caught:
    attention.init(jax.random.key(0), jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4))
  message = str(caught.value)
  name = getattr(core, "__name__", type(core).__name__)
  assert f"attention core {name} does not take one AttentionRequest" in message
  assert "\n" not in message
  for field in dataclasses.fields(AttentionRequest):
    assert f".{field.name}" in message


@pytest.mark.parametrize(
  "core", [lambda query: query.query, lambda *arguments: arguments[0].query, CORES[2].__call__]
)
def test_any_callable_of_one_argument_is_a_core(core):
  request = _request(mask=SlidingWindow(size=3))
  assert attend_with(core, request).shape == request.query.shape


@pytest.mark.bits
def test_a_mask_that_cannot_be_hashed_serves_a_layer():
  @dataclasses.dataclass
  class Own:
    size: int

    def __call__(self, queries, keys):
      return causal_mask(queries, keys)

  x, tokens = jnp.ones((1, 4, 8)), Tokens.unpacked(1, 4)
  params = Attention(2, mask=Own(3)).init(jax.random.key(0), x, tokens)
  wanted = Attention(2).apply(params, x, tokens)
  np.testing.assert_array_equal(Attention(2, mask=Own(3)).apply(params, x, tokens), wanted)
