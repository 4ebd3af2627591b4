"""Law 8 for what layers say: scan, remat and the cache path hand out the same reports."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers import cache
from layers.block import Block
from layers.errors import UserError
from layers.feed_forward import FeedForward
from layers.reports import COLLECTION, by_name, merged, report, reports_seen
from layers.stack import Stack
from layers.tokens import Tokens


class SpeakingFeedForward(FeedForward):
  """Reports the mean square of what it gives, and of each layer how large it is."""

  def __call__(self, x, tokens):
    y = super().__call__(x, tokens)
    real = tokens.segments > 0
    square = jnp.where(real, jnp.square(y).mean(-1), 0.0).sum()
    report(self, "square", square, real.sum())
    report(self, "size", jnp.where(real, jnp.abs(y).mean(-1), 0.0).sum(), real.sum(), True)
    return y


class CountingBlock(Block):
  """Keeps, beside parameters, how many tokens it has met."""

  @nn.compact
  def __call__(self, x, tokens):
    met = self.variable("counts", "met", lambda: jnp.zeros(()))
    if self.is_mutable_collection("counts") and not self.is_initializing():
      met.value += (tokens.segments > 0).sum()
    return super().__call__(x, tokens)


def speaking(make_decoder, kind=Block, **fields):
  model = make_decoder(**fields)
  block = model.block
  block = kind(block.attention, SpeakingFeedForward(residual_depth=3), block.norm)
  return dataclasses.replace(model, block=block)


@pytest.fixture(scope="module")
def plain(make_decoder, packed):
  """Of unrolled layers: variables, reports."""
  model = speaking(make_decoder, scan_layers=False)
  variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), *packed))
  params = {"params": variables["params"]}
  return params, _reports(model, params, packed)


def _reports(model, variables, inputs):
  apply = jax.jit(lambda *inputs: model.apply(variables, *inputs, mutable=[COLLECTION])[1])
  return by_name(apply(*inputs)[COLLECTION])


def _stacked(variables):
  layers = variables["params"]["stack"]["layers"].values()
  stack = {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
  return {"params": variables["params"] | {"stack": stack}}


@pytest.mark.bits
@pytest.mark.parametrize(
  "scan_layers, remat", [(True, "none"), (True, "full"), (False, "dots")]
)
def test_scan_and_remat_change_no_report(make_decoder, packed, plain, scan_layers, remat):
  variables, want = plain
  variables = _stacked(variables) if scan_layers else variables
  model = speaking(make_decoder, scan_layers=scan_layers, remat=remat)
  got = _reports(model, variables, packed)
  assert got.keys() == want.keys() == {"square", "size"}
  for name in want:
    np.testing.assert_allclose(got[name].total, want[name].total, rtol=1e-5)
    np.testing.assert_array_equal(got[name].weight, want[name].weight)


@pytest.mark.bits
def test_a_report_adds_up_over_layers_or_keeps_them_apart_and_leaves_padding_out(plain):
  _, found = plain
  assert found["square"].weight == 3 * (12 + 9)
  np.testing.assert_array_equal(found["size"].weight, [21.0, 21.0, 21.0])
  assert len(set(np.asarray(found["size"].total))) == 3


@pytest.mark.bits
def test_parts_of_a_batch_report_what_the_batch_reports(make_decoder, packed, plain):
  variables, want = plain
  model = speaking(make_decoder, scan_layers=False)
  rows = [jax.tree.map(lambda x, n=n: x[n : n + 1], packed) for n in range(2)]
  got = merged(*(_reports(model, variables, row) for row in rows))
  for name in want:
    np.testing.assert_allclose(got[name].total, want[name].total, rtol=1e-5)
    np.testing.assert_array_equal(got[name].weight, want[name].weight)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_the_cache_path_hands_reports_out_too(make_decoder, packed, plain, scan_layers):
  variables, _ = plain
  variables = _stacked(variables) if scan_layers else variables
  model = speaking(make_decoder, scan_layers=scan_layers)
  inputs = packed[0], Tokens.unpacked(2, 12)
  _, updated = model.apply(variables, *inputs, mutable=[COLLECTION, cache.COLLECTION])
  want = _reports(model, variables, inputs)
  got = by_name(updated[COLLECTION])
  assert updated[cache.COLLECTION]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), got, want)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_making_parameters_tells_what_will_be_reported(make_decoder, packed, scan_layers):
  model = speaking(make_decoder, scan_layers=scan_layers)
  with reports_seen() as seen:
    jax.eval_shape(model.init, jax.random.key(0), *packed)
  assert {name: one.total.shape for name, one in seen.items()} == {"square": (), "size": (3,)}


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_layers_of_a_stack_keep_variables_of_their_own(
  make_decoder, packed, scan_layers, remat
):
  model = speaking(make_decoder, CountingBlock, scan_layers=scan_layers, remat=remat)
  variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), *packed))
  variables = {name: variables[name] for name in ("params", "counts")}
  for _ in range(2):
    _, updated = model.apply(variables, *packed, mutable=["counts"])
    variables |= updated
  counts = jax.tree.leaves(updated)
  assert [float(x) for x in np.concatenate([np.atleast_1d(x) for x in counts])] == [42.0] * 3


class _Wrong(nn.Module):
  total: tuple = ()
  twice: bool = False

  @nn.compact
  def __call__(self, x, tokens):
    report(self, "wrong", jnp.ones(self.total), 1.0)
    if self.twice:
      report(self, "wrong", 1.0, 1.0, per_layer=True)
    return x


def test_a_report_that_is_no_scalar_or_has_two_shapes_is_refused_by_name():
  x, tokens = jnp.ones((1, 2, 3)), Tokens.unpacked(1, 2)
  with pytest.raises(UserError, match=r"the report 'wrong' of _Wrong has the shapes \(2,\)"):
    _Wrong((2,)).init(jax.random.key(0), x, tokens)
  with pytest.raises(UserError, match="the report 'wrong' is made in two places"):
    Stack(_Wrong(twice=True), 2).init(jax.random.key(0), x, tokens)
