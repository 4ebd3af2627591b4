"""Clipping, decay by name and float32 moments, for every optimizer alike."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from layers.errors import UserError
from runners import optimizers

MAKERS = [optimizers.adamw, optimizers.sgdm, optimizers.lion]


def _params(dtype=jnp.float32):
  """Names as the layers give them; the second block is stacked: its bias has two dimensions."""
  block = lambda *stack: {
    "out": {"kernel": jnp.ones((*stack, 2, 2), dtype), "bias": jnp.ones((*stack, 2), dtype)},
    "norm": {"scale": jnp.ones((*stack, 2), dtype)},
  }
  return {"embedding": {"table": jnp.ones((3, 2), dtype)}, "0": block(), "layers": block(4)}


def _change(optimizer, params, gradients, num_steps=1):
  state, start = optimizer.init(params), params
  for _ in range(num_steps):
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return jax.tree.map(np.subtract, params, start)


def test_biases_and_scales_are_not_decayed_whether_stacked_or_not():
  block = {"out": {"kernel": True, "bias": False}, "norm": {"scale": False}}
  want = {"embedding": {"table": True}, "0": block, "layers": block}
  assert optimizers.decay_kernels(_params()) == want


@pytest.mark.parametrize("make", MAKERS)
def test_decay_alone_moves_kernels_and_tables_and_nothing_else(make):
  params = _params()
  optimizer = make(0.5, weight_decay=0.1)
  change = _change(optimizer, params, jax.tree.map(jnp.zeros_like, params))
  for path, x in jax.tree_util.tree_leaves_with_path(change):
    decayed = path[-1].key in ("kernel", "table")
    np.testing.assert_allclose(x, -0.05 if decayed else 0.0, rtol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_a_decay_mask_of_ones_own_replaces_the_names(make):
  params = _params()
  everything = lambda tree: jax.tree.map(lambda _: True, tree)
  optimizer = make(0.5, weight_decay=0.1, decay_mask=everything)
  change = _change(optimizer, params, jax.tree.map(jnp.zeros_like, params))
  jax.tree.map(lambda x: np.testing.assert_allclose(x, -0.05, rtol=1e-6), change)


@pytest.mark.parametrize("make", MAKERS)
def test_without_a_decay_mask_everything_decays(make):
  params = _params()
  optimizer = make(0.5, weight_decay=0.1, decay_mask=None)
  change = _change(optimizer, params, jax.tree.map(jnp.zeros_like, params))
  jax.tree.map(lambda x: np.testing.assert_allclose(x, -0.05, rtol=1e-6), change)


def test_gradients_are_clipped_by_their_global_norm():
  params = {"a": {"kernel": jnp.zeros(1)}, "b": {"kernel": jnp.zeros(1)}}
  gradients = {"a": {"kernel": jnp.array([3.0])}, "b": {"kernel": jnp.array([4.0])}}  # norm 5
  change = lambda clip: _change(
    optimizers.sgdm(1.0, momentum=0.0, clip_norm=clip), params, gradients
  )
  np.testing.assert_allclose(change(1.0)["a"]["kernel"], -0.6, rtol=1e-6)
  np.testing.assert_allclose(change(1.0)["b"]["kernel"], -0.8, rtol=1e-6)
  np.testing.assert_allclose(change(10.0)["b"]["kernel"], -4.0)
  np.testing.assert_allclose(change(None)["b"]["kernel"], -4.0)


def test_adamw_is_its_equation():
  rate, b1, b2, eps, decay = 0.1, 0.9, 0.95, 1e-8, 0.1
  theta, m, v = 2.0, 0.0, 0.0
  gradients = [0.3, -0.7, 0.2]
  optimizer = optimizers.adamw(rate, b1, b2, eps, decay, clip_norm=None)
  params = {"kernel": jnp.array(theta)}
  state = optimizer.init(params)
  for t, g in enumerate(gradients, start=1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    direction = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
    theta -= rate * (direction + decay * theta)
    updates, state = optimizer.update({"kernel": jnp.array(g)}, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params["kernel"], theta, rtol=1e-5)


def test_momentum_adds_up_past_gradients():
  params = {"kernel": jnp.array(0.0)}
  optimizer = optimizers.sgdm(1.0, momentum=0.5)
  change = _change(optimizer, params, {"kernel": jnp.array(1.0)}, num_steps=3)
  np.testing.assert_allclose(change["kernel"], -(1 + 1.5 + 1.75))


@pytest.mark.parametrize("gradient_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("make", MAKERS)
def test_moments_are_float32_before_and_after_a_step_on_bfloat16(make, gradient_dtype):
  params, optimizer = _params(jnp.bfloat16), make(1e-3, weight_decay=0.1)
  before = optimizer.init(params)
  gradients = jax.tree.map(lambda x: x.astype(gradient_dtype), params)
  _, after = optimizer.update(gradients, before, params)
  for state in (before, after):
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert moments and {x.dtype for x in moments} == {jnp.dtype("float32")}


def test_a_second_moment_too_small_for_bfloat16_is_kept():
  # 1 + 0.001 rounds to 1 in bfloat16: an average kept in it would never move again.
  optimizer = optimizers.adamw(1e-3, b2=0.999, clip_norm=None)
  params = {"kernel": jnp.ones(1, jnp.bfloat16)}
  state = optimizer.init(params)
  for _ in range(1000):
    _, state = optimizer.update({"kernel": jnp.ones(1, jnp.bfloat16)}, state, params)
  moments = [float(x[0]) for x in jax.tree.leaves(state) if x.ndim]
  np.testing.assert_allclose(moments, [1.0, 1 - 0.999**1000], rtol=1e-3)


@pytest.mark.parametrize("make", MAKERS)
def test_a_schedule_is_a_learning_rate_too(make):
  params = {"kernel": jnp.ones(2)}
  gradients = {"kernel": jnp.ones(2)}
  schedule = lambda step: jnp.where(step < 1, 0.0, 0.5)
  assert not _change(make(schedule), params, gradients)["kernel"].any()
  assert _change(make(schedule), params, gradients, num_steps=2)["kernel"].all()


@pytest.mark.parametrize("make", MAKERS)
def test_frozen_parameters_neither_move_nor_decay_nor_have_moments(make):
  params = _params()
  optimizer = make(0.5, weight_decay=0.1, frozen=("^embedding", "layers/out/"))
  change = _change(optimizer, params, jax.tree.map(jnp.ones_like, params), num_steps=3)
  for path, x in jax.tree_util.tree_leaves_with_path(change):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    assert np.all(x == 0) == (name.startswith("embedding") or "layers/out/" in name), name
  sizes = {x.shape for x in jax.tree.leaves(optimizer.init(params))}
  assert not sizes & {(3, 2), (4, 2, 2)} and (2, 2) in sizes


def test_frozen_gradients_do_not_count_where_gradients_are_clipped():
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
  optimizer = optimizers.sgdm(1.0, momentum=0.0, clip_norm=3.0, frozen=("b",))
  change = _change(optimizer, params, gradients)
  np.testing.assert_allclose(change["a"], -3.0, rtol=1e-6)


def test_a_pattern_that_freezes_nothing_is_refused_with_the_nearest_name():
  optimizer = optimizers.adamw(0.5, frozen=("embeding/table",))
  with pytest.raises(UserError, match="'embeding/table' is found in no .*embedding/table"):
    optimizer.init(_params())


@pytest.mark.parametrize(
  ("frozen", "said"),
  [("^embedding/", r"write a list, \['\^embedding/'\]"), (["("], "is no regular expression")],
)
def test_frozen_has_to_be_a_list_of_regular_expressions(frozen, said):
  with pytest.raises(UserError, match=said):
    optimizers.adamw(1e-2, frozen=frozen)
