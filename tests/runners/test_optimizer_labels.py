"""Every parameter has one label, and each label an optimizer that sees its own alone."""

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from layers.errors import UserError
from runners import optimizers, schedules
from runners.optimizer_labels import by_label, learning_rates, one_transformation


def _params():
  layer = lambda: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  return {"generator": {"in": layer(), "out": layer()}, "discriminator": {"out": layer()}}


def _change(optimizer, params, gradients, num_steps=1):
  state, start = optimizer.init(params), params
  for _ in range(num_steps):
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return jax.tree.map(np.subtract, params, start)


def _ones(params):
  return jax.tree.map(jnp.ones_like, params)


def test_each_label_moves_as_its_optimizer_alone_would_move_it():
  params = _params()
  gradients = jax.tree.map(lambda x: 3.0 * x, params)  # clipping has something to do
  parts = {
    "generator": optimizers.adamw(1e-2, weight_decay=0.3),
    "discriminator": optimizers.sgdm(0.5, clip_norm=1.0, weight_decay=0.2),
  }
  change = _change(one_transformation(parts), params, gradients, num_steps=3)
  for label, optimizer in parts.items():
    alone = _change(optimizer, params[label], gradients[label], num_steps=3)
    jax.tree.map(np.testing.assert_array_equal, change[label], alone)


def test_decay_masks_and_frozen_parameters_hold_within_a_label():
  params = _params()
  parts = {
    "generator": optimizers.adamw(0.5, weight_decay=0.1, frozen=("/in/",)),
    "discriminator": optimizers.lion(0.5, weight_decay=0.1, decay_mask=None),
  }
  zeros = jax.tree.map(jnp.zeros_like, params)
  change = _change(one_transformation(parts), params, zeros)
  moved = jax.tree.map(lambda x: bool(np.any(x != 0)), change)
  assert moved == {
    "generator": {
      "in": {"kernel": False, "bias": False},
      "out": {"kernel": True, "bias": False},
    },
    "discriminator": {"out": {"kernel": True, "bias": True}},
  }


def test_patterns_give_labels_and_the_first_found_counts():
  parts = {"matrices": optimizers.sgdm(1.0, momentum=0.0), "rest": optimizers.sgdm(0.0)}
  optimizer = by_label(parts, {"matrices": ["kernel$"], "rest": [".*"]})
  change = _change(optimizer, _params(), _ones(_params()))
  for path, x in jax.tree_util.tree_leaves_with_path(change):
    np.testing.assert_array_equal(x, -1.0 if path[-1].key == "kernel" else 0.0)


def test_a_label_is_a_whole_part_of_a_name():
  parts = {"in": optimizers.sgdm(1.0), "a": optimizers.sgdm(1.0)}
  with pytest.raises(UserError, match="'inner/kernel' has no label; nearest is 'in'"):
    one_transformation(parts).init({"inner": {"kernel": jnp.ones(1)}})


def test_a_parameter_without_a_label_is_named_with_the_nearest_pattern():
  parts = {"embedding": optimizers.sgdm(1.0), "blocks": optimizers.sgdm(1.0)}
  optimizer = by_label(parts, {"embedding": ["^embed/"], "blocks": ["^stack/layers"]})
  params = {"embed": {"table": jnp.ones(1)}, "stack": {"layer_0": {"kernel": jnp.ones(1)}}}
  with pytest.raises(UserError) as error:
    optimizer.init(params)
  assert "'stack/layer_0/kernel' has no label" in str(error.value)
  assert "nearest is 'blocks' ('^stack/layers')" in str(error.value)


@pytest.mark.parametrize(
  "labels, patterns, words",
  [
    (["generator", "discriminator", "critic"], {}, "no parameter has the label 'critic'"),
    (["generator"], {"generatr": ["."]}, "'generatr' is no label: did you mean generator"),
    (["generator"], {"generator": "gen"}, r"write a list, \['gen'\]"),
    (["generator"], {"generator": ["("]}, "'\\(' is no regular expression"),
    ([], {}, "there is none"),
  ],
)
def test_labels_and_patterns_that_do_not_fit_are_refused(labels, patterns, words):
  with pytest.raises(UserError, match=words):
    by_label({label: optimizers.sgdm(1.0) for label in labels}, patterns).init(_params())


def test_each_label_has_its_own_learning_rate():
  rate = fdl.Config(schedules.warmup_cosine, peak=1e-3, num_steps=10)
  adamw = fdl.Config(optimizers.adamw, learning_rate=rate)
  sgd = fdl.Config(optimizers.sgdm, learning_rate=0.5)
  bare = fdl.Config(optax.set_to_zero)
  names = {"learning_rate/a", "learning_rate/b"}
  several = learning_rates({"a": adamw, "b": sgd, "c": bare})
  assert several.keys() == names and several["learning_rate/b"] == 0.5
  assert float(several["learning_rate/a"](10)) == pytest.approx(float(fdl.build(rate)(10)))
  assert learning_rates(fdl.Config(by_label, optimizers={"a": adamw, "b": sgd})).keys() == names
  assert learning_rates(sgd) == {"learning_rate": 0.5} and learning_rates(bare) == {}
