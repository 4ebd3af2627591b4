"""Law 8: scanned or unrolled, any remat policy, the same parameters and the same gradients."""

import functools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers.attention_cores.dense import dense_attention
from layers.rematerialization import PolicyName, Remat
from layers.sharding import on_platform

BY_NAME = Remat(save=("query", "hidden"), offload=("block_input", "attention"))
POLICIES = [*get_args(PolicyName), BY_NAME]
KEY = jax.random.key(5)


def _params(model, ids, tokens):
  return nn.unbox(model.init(jax.random.key(0), ids, tokens))["params"]


def _stacked(params, num_layers):
  """Parameters of an unrolled model in the form of a scanned one."""
  layers = [params["stack"]["layers"][str(i)] for i in range(num_layers)]
  return params | {"stack": {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}}


def _value_and_grad(model, params, ids, tokens, dropout_key=None):
  rngs = {} if dropout_key is None else {"dropout": dropout_key}

  def loss(params):
    return jnp.square(model.apply({"params": params}, ids, tokens, rngs=rngs)).mean()

  return jax.jit(jax.value_and_grad(loss))(params)


def _assert_close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, want)


@pytest.mark.bits
def test_scanned_and_unrolled_layers_begin_with_bitwise_the_same_parameters(
  make_decoder, packed
):
  scanned = _params(make_decoder(scan_layers=True), *packed)
  unrolled = _params(make_decoder(scan_layers=False), *packed)
  jax.tree.map(np.testing.assert_array_equal, _stacked(unrolled, 3), scanned)


@pytest.fixture(scope="module")
def plain(make_decoder, packed):
  """Of unrolled layers without a policy, for a dropout rate: parameters, (loss, gradient)."""

  @functools.cache
  def at(rate):
    model = make_decoder(scan_layers=False, dropout_rate=rate)
    params = _params(model, *packed)
    return params, _value_and_grad(model, params, *packed, KEY if rate else None)

  return at


@pytest.mark.parametrize(
  ("remat", "rate"),
  [(remat, 0.0) for remat in POLICIES] + [("none", 0.3), ("full", 0.3), (BY_NAME, 0.3)],
)
def test_scan_and_remat_change_no_loss_and_no_gradient(
  make_decoder, packed, plain, remat, rate
):
  params, (loss, gradient) = plain(rate)
  dropout_key = KEY if rate else None
  unrolled = make_decoder(scan_layers=False, remat=remat, dropout_rate=rate)
  _assert_close(_value_and_grad(unrolled, params, *packed, dropout_key), (loss, gradient))
  scanned = make_decoder(scan_layers=True, remat=remat, dropout_rate=rate)
  got = _value_and_grad(scanned, _stacked(params, 3), *packed, dropout_key)
  _assert_close(got, (loss, _stacked(gradient, 3)))


@pytest.mark.parametrize("group", [2, 3, 7])  # not even, all of them, more than there are
@pytest.mark.parametrize("remat", ["none", "full"])
def test_layers_in_groups_are_the_scanned_ones(make_decoder, packed, plain, group, remat):
  params, (loss, gradient) = plain(0.3)
  grouped = make_decoder(scan_layers=group, remat=remat, dropout_rate=0.3)
  got = _value_and_grad(grouped, _stacked(params, 3), *packed, KEY)
  _assert_close(got, (loss, _stacked(gradient, 3)))


@pytest.mark.bits
def test_layers_in_groups_begin_as_the_scanned_ones(make_decoder, packed):
  scanned, grouped = (_params(make_decoder(scan_layers=n), *packed) for n in (True, 2))
  jax.tree.map(np.testing.assert_array_equal, grouped, scanned)


def test_there_is_no_loop_where_all_layers_are_one_group_as_on_a_gpu(make_decoder, packed):
  def loops(scan_layers):
    model = make_decoder(scan_layers=scan_layers)
    params = jax.eval_shape(model.init, jax.random.key(0), *packed)
    program = jax.jit(lambda params: model.apply(params, *packed)).lower(nn.unbox(params))
    return program.as_text().count("stablehlo.while")

  assert loops(3) == 0 < loops(True)
  with on_platform("gpu"):  # a single one
    assert loops(True) == 0 < loops(1)


@pytest.mark.parametrize("scan_layers", [False, True, 1])
@pytest.mark.parametrize("remat", ["none", "minimal"])
def test_what_accelerators_keep_changes_no_loss_and_no_gradient(
  make_decoder, packed, plain, scan_layers, remat
):
  params, (loss, gradient) = plain(0.3)
  model = make_decoder(scan_layers=scan_layers, remat=remat, dropout_rate=0.3)
  form = (lambda params: params) if scan_layers is False else (lambda p: _stacked(p, 3))
  with on_platform("gpu"):
    got = _value_and_grad(model, form(params), *packed, KEY)
  _assert_close(got, (loss, form(gradient)))


def test_every_layer_has_weights_of_its_own(make_decoder, packed):
  """Linen shares the weights of a template that is called twice, without a word."""
  D, F, V, P, L, K = 32, 4 * 32, 67, 16, 3, 2
  attention = 2 * (D * D + D) + 2 * (D * K * 8 + K * 8)
  feed_forward = D * F + F + F * D + D
  norms = 2 * 2 * D
  want = V * D + P * D + L * (attention + feed_forward + norms) + 2 * D
  for scan_layers in (True, False):
    params = _params(make_decoder(scan_layers=scan_layers), *packed)
    assert sum(x.size for x in jax.tree.leaves(params)) == want


def test_layers_do_not_begin_alike(make_decoder, packed):
  kernels = _params(make_decoder(), *packed)["stack"]["layers"]["attention"]["query"]["kernel"]
  assert not np.allclose(kernels[0], kernels[1])


def test_every_parameter_names_its_axes(make_decoder, packed):
  boxed = make_decoder().init(jax.random.key(0), *packed)["params"]
  is_box = lambda x: isinstance(x, nn.Partitioned)
  for leaf in jax.tree.leaves(boxed, is_leaf=is_box):
    assert is_box(leaf)
    assert len(leaf.names) == leaf.value.ndim


def _cannot_be_batched(request):
  """An attention core like cuDNN's, whose kernel refuses to be made under `jax.vmap`."""
  kernel = jax.custom_batching.custom_vmap(lambda query: query)

  @kernel.def_vmap
  def refuse(*_):
    raise TypeError("cannot be batched")

  return kernel(request.query)


@pytest.mark.bits
@pytest.mark.parametrize("scan_layers", [True, False])
def test_parameters_are_made_without_a_forward_pass(make_decoder, packed, scan_layers):
  key = jax.random.key(0)
  model = make_decoder(scan_layers=scan_layers)
  other = make_decoder(scan_layers=scan_layers, core=_cannot_be_batched)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), packed)
  whole = jax.jit(lambda key: nn.unbox(model.init(key, *packed)["params"]))
  lazy = jax.jit(lambda key: nn.unbox(other.lazy_init(key, *shapes)["params"]))
  jax.tree.map(np.testing.assert_array_equal, lazy(key), whole(key))
  program = lazy.lower(key).compile().as_text()
  assert "fusion" in program and " dot(" not in program


def test_a_model_that_has_parameters_traces_each_layer_once(make_decoder, packed):
  calls = []

  def counted(request):
    calls.append(1)
    return dense_attention(request)

  params = _params(make_decoder(scan_layers=False), *packed)
  model = make_decoder(scan_layers=False, core=counted)
  jax.eval_shape(lambda params: model.apply({"params": params}, *packed), params)
  assert len(calls) == model.num_layers
