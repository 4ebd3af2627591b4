"""An unrolled stack begins with the values of each layer alone, all made by one program."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from layers import initializers, stack
from runners.devices.flops import programs_within


def _first(model, packed):
  """The program that makes them."""
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), packed)
  return jax.jit(lambda key: nn.unbox(model.lazy_init(key, *shapes)["params"]))


@pytest.mark.bits
def test_each_layer_begins_bitwise_as_it_would_alone(make_decoder, packed, monkeypatch):
  model, key = make_decoder(scan_layers=False), jax.random.key(1)
  found = _first(model, packed)(key)
  monkeypatch.setattr(stack, "one_by_one", lambda init, keys: [init(key) for key in keys])
  alone = _first(model, packed)(key)
  jax.tree.map(np.testing.assert_array_equal, found, alone)
  kernels = [
    layer["attention"]["query"]["kernel"] for layer in found["stack"]["layers"].values()
  ]
  assert len(kernels) == 3 and not np.array_equal(kernels[0], kernels[1])


def _draws(jaxpr):
  """How often a program, and those within it, draw random bits."""
  within = [_draws(inner) for eqn in jaxpr.eqns for inner in programs_within(eqn.params)]
  return sum(eqn.primitive.name == "random_bits" for eqn in jaxpr.eqns) + sum(within)


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
def test_neither_tracing_nor_compiling_first_parameters_grows_with_depth(
  make_decoder, packed, scan_layers, monkeypatch
):
  asked, counts, normal = [], [], initializers.normal
  monkeypatch.setattr(initializers, "normal", lambda x: asked.append(x) or normal(x))
  for depth in (4, 16):
    asked.clear()
    made = _first(make_decoder(scan_layers=scan_layers, num_layers=depth), packed)
    traced = made.trace(jax.random.key(0))
    text = traced.lower().compile().as_text()
    counts.append((len(asked), _draws(traced.jaxpr.jaxpr), text.count("log-plus-one(")))
  assert counts[0] == counts[1]
  assert min(counts[0]) > 0
