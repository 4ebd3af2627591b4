"""Every parameter has one label, and each label an optimizer that sees its own alone."""

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from layers.errors import UserError
from runners import optimizers, schedules
from runners.array_names import named_arrays
from runners.metrics.json_lines import JsonLines, read
from runners.optimizer_labels import by_label, learning_rates, one_transformation
from runners.training import train
from tests.runners.toy_run import begin, toy_config


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
  with pytest.raises(
    UserError, match="'inner/kernel' has no label; the nearest pattern is 'in'"
  ):
    one_transformation(parts).init({"inner": {"kernel": jnp.ones(1)}})


def test_a_parameter_without_a_label_is_named_with_the_nearest_pattern():
  parts = {"embedding": optimizers.sgdm(1.0), "blocks": optimizers.sgdm(1.0)}
  optimizer = by_label(parts, {"embedding": ["^embed/"], "blocks": ["^stack/layers"]})
  params = {"embed": {"table": jnp.ones(1)}, "stack": {"layer_0": {"kernel": jnp.ones(1)}}}
  with pytest.raises(UserError) as error:
    optimizer.init(params)
  assert "'stack/layer_0/kernel' has no label" in str(error.value)
  assert "nearest pattern is '^stack/layers' of 'blocks'" in str(error.value)


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
  several = fdl.build(learning_rates({"a": adamw, "b": sgd, "c": bare}))
  assert several.keys() == names and several["learning_rate/b"] == 0.5
  assert float(several["learning_rate/a"](10)) == pytest.approx(float(fdl.build(rate)(10)))
  assert learning_rates(fdl.Config(by_label, optimizers={"a": adamw, "b": sgd})).keys() == names
  assert learning_rates(sgd) == {"learning_rate": 0.5} and learning_rates(bare) == {}


def test_a_run_with_several_goes_on_bitwise_and_logs_the_rate_of_each(tmp_path):
  parts = {
    "matrices": fdl.Config(optimizers.adamw, learning_rate=1e-2, frozen=["/out/"]),
    "rest": fdl.Config(optimizers.sgdm, learning_rate=0.5),
  }
  patterns = {"matrices": ["kernel$"], "rest": ["."]}

  def go_to(workdir, num_steps):
    config = toy_config(
      optimizer=fdl.Config(by_label, optimizers=parts, patterns=patterns),
      num_steps=num_steps,
      log_every=1,
      writers=[fdl.Config(JsonLines)],
    )
    assert train(config, "toy.Run", str(workdir), accept_changes=["num_steps"]) == 0
    rows = read(str(workdir / "metrics.jsonl"))
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]

  go_to(tmp_path / "broken", 2)
  broken, unbroken = go_to(tmp_path / "broken", 4), go_to(tmp_path / "unbroken", 4)
  assert broken == unbroken
  assert [row["step"] for row in broken] == [1, 2, 3, 4]
  assert {row["train/learning_rate/matrices"] for row in broken} == {1e-2}
  assert {row["train/learning_rate/rest"] for row in broken} == {0.5}


def test_moments_of_each_label_lie_as_their_parameters_do():
  parts = {"matrices": fdl.Config(optimizers.adamw, learning_rate=1e-2)}
  parts["rest"] = fdl.Config(optimizers.sgdm, learning_rate=1e-2)
  patterns = {"matrices": ["kernel$"], "rest": ["."]}
  optimizer = fdl.Config(by_label, optimizers=parts, patterns=patterns)
  assembly, state = begin(toy_config(optimizer=optimizer))
  shardings = dict(named_arrays(assembly.initializer.shardings.params))
  moments = [(name, x) for name, x in named_arrays(state.opt_state) if x.ndim]
  assert len(moments) > len(shardings)  # two of each matrix, one of each other
  for name, x in moments:
    mine = max((key for key in shardings if name.endswith(f"/{key}")), key=len)
    assert x.sharding == shardings[mine], name
