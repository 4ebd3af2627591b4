"""Whether rows are whole is decided once, for all who ask, and both forms compute the same."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention_cores import whole_rows
from layers.attention_cores.cudnn import attend, dot_product
from layers.attention_cores.whole_rows import are_whole, decided_once, known_to_be_whole
from layers.sharding import on_platform
from layers.tokens import Tokens

XLA = functools.partial(dot_product, "xla", "float32")


@pytest.mark.parametrize(
  ("segments", "whole", "without_padding"),
  [
    ([[1, 1, 1], [1, 1, 1]], True, True),
    ([[3, 3, 3], [1, 1, 1]], True, True),
    ([[0, 0, 0], [1, 1, 1]], True, True),
    ([[1, 1, 0], [1, 1, 1]], True, False),
    ([[0, 1, 1], [1, 1, 1]], False, False),
    ([[1, 0, 1], [1, 1, 1]], False, False),
    ([[1, 1, 2], [1, 1, 1]], False, False),
  ],
)
def test_a_row_is_whole_with_one_document_that_only_padding_may_follow(
  segments, whole, without_padding
):
  segments = jnp.array(segments)
  assert are_whole(segments, without_padding=False) == whole
  assert are_whole(segments, without_padding=True) == without_padding


def _inputs(segments):
  segments = jnp.array(segments)
  return lambda: ("ids", Tokens(jnp.zeros_like(segments), segments, jnp.arange(len(segments))))


@pytest.mark.parametrize(
  ("segments", "strict", "wanted"),
  [([[1, 1]], True, 1), ([[1, 0]], True, 2), ([[1, 0]], False, 1), ([[1, 2]], False, 2)],
)
def test_who_asks_is_told_what_holds_for_these_rows(segments, strict, wanted):
  def answer():
    known = known_to_be_whole(without_padding=strict)
    return {None: 0, True: 1, False: 2}[known] * jnp.ones(())

  decide = jax.jit(lambda: {"found": decided_once(answer, _inputs(segments))})
  with on_platform("gpu"):
    assert decide()["found"] == wanted
  assert jax.jit(lambda: decided_once(answer, _inputs(segments)))() == 0  # not on CPU
  assert known_to_be_whole(without_padding=strict) is None


def test_on_several_devices_every_layer_chooses(monkeypatch):
  monkeypatch.setattr(whole_rows, "is_split", lambda: True)
  answer = lambda: jnp.float32(known_to_be_whole(without_padding=True) is None)
  with on_platform("gpu"):
    assert decided_once(answer, _inputs([[1, 1]])) == 1


def test_where_nobody_asks_there_is_one_form():
  function = lambda: jnp.ones(2)
  with on_platform("gpu"):
    assert _choices(lambda: decided_once(function, _inputs([[1, 2]]))) == 0


def _core(request):
  """What CudnnAttention(query_block=64) computes on one device."""
  return attend(XLA, request.mask, 64, *request.operands)


@pytest.mark.parametrize("rows", ["packed", "whole"])
def test_a_step_chooses_once_and_computes_what_its_layers_would_choose(
  make_decoder, packed, rows
):
  ids, tokens = packed
  if rows == "whole":
    tokens = Tokens.unpacked(*ids.shape)
  model = make_decoder(core=_core)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), ids, tokens))

  def gradient(params):
    is_token = (tokens.segments > 0)[..., None]
    loss = lambda params: jnp.square(model.apply(params, ids, tokens) * is_token).mean()
    return jax.value_and_grad(loss)(params)

  once = lambda params: decided_once(lambda: gradient(params), lambda: (ids, tokens))
  with on_platform("gpu"):
    assert _choices(once, params) == 1
    assert _choices(gradient, params) > 1  # in the loop over layers, forward and backward
    got = jax.jit(once)(params)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  jax.tree.map(close, got, jax.jit(gradient)(params))


def _choices(function, *arguments):
  """How many choices by a value stand in the program."""
  return jax.jit(function).lower(*arguments).as_text().count("stablehlo.case")
