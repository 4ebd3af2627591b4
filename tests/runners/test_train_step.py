"""Law 3, accumulation: nothing depends on how the batch is split into microbatches."""

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from runners import optimizers
from runners.assembly import assemble
from runners.devices.meshes import place
from tasks.language_modeling import NextToken
from tests.runners import toy_run

BATCH_SIZE = 8
Z_LOSS = 1e-2


def _ragged(batch):
  """The batch with weights that differ from row to row; one row counts for nothing at all."""
  weights = np.random.default_rng(1).choice(
    [0.0, 0.25, 1.0], batch["decoder_loss_weights"].shape
  )
  weights[3] = 0.0
  return {**batch, "decoder_loss_weights": weights.astype(np.float32)}


def _one_step(microbatch_size, dropout_rate, **fields):
  """(first parameters, the state after one step of SGD at rate 1, loss)."""
  config = toy_run.toy_config(
    dropout_rate=dropout_rate,
    batch_size=BATCH_SIZE,
    microbatch_size=microbatch_size,
    objective=fdl.Config(NextToken, z_loss=Z_LOSS),
    **fields,
  )
  assembly, state = toy_run.begin(config)
  params = toy_run.snapshot(state.params)
  batch = place(_ragged(assembly.batches[0]), assembly.batch_sharding)
  state, loss = assembly.train_step()(state, batch)
  return params, state, float(loss)


@pytest.fixture(
  scope="module",
  params=[0.0, pytest.param(0.3, marks=pytest.mark.slow)],
  ids=["no-dropout", "dropout"],
)
def splits(request):
  """microbatch size -> what one step makes of the same batch."""
  return {size: _one_step(size, request.param) for size in (None, 4, 2, 1)}


def test_loss_and_gradients_do_not_depend_on_the_microbatch_size(splits):
  before, whole, whole_loss = splits[None]
  assert whole_loss > 1
  for _, state, loss in splits.values():
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-5)
    # At rate 1 the difference of the parameters is the gradient.
    got = jax.tree.map(np.subtract, before, state.params)
    want = jax.tree.map(np.subtract, before, whole.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 2e-7), got, want)


def test_metrics_merge_to_the_same_sums_and_weights(splits):
  _, whole, _ = splits[None]
  for size in (4, 2, 1):
    state = splits[size][1]
    got, want = state.metrics.objective, whole.metrics.objective
    for metric in ("loss", "bits_per_byte", "z_loss"):
      one, other = getattr(got, metric), getattr(want, metric)
      np.testing.assert_allclose(one.total, other.total, rtol=1e-5)
      assert one.count == other.count > 0  # sums of quarters are exact in any order


def test_the_loss_is_the_weighted_mean_over_the_whole_batch_with_the_z_loss(splits):
  for _, state, loss in splits.values():
    summary = {key: float(x) for key, x in state.metrics.objective.compute().items()}
    assert summary["z_loss"] > 0
    np.testing.assert_allclose(loss, summary["loss"] + summary["z_loss"], rtol=1e-5)


def test_grad_norm_is_that_of_the_whole_gradient(splits):
  for before, state, _ in splits.values():
    gradients = jax.tree.map(np.subtract, before, state.params)
    want = float(optax.tree.norm(gradients))
    np.testing.assert_allclose(float(state.metrics.grad_norm.compute()), want, rtol=1e-4)


def test_dropout_is_drawn_anew_at_each_step_and_not_in_evaluation():
  config = toy_run.toy_config(
    dropout_rate=0.5,
    optimizer=fdl.Config(optimizers.sgdm, learning_rate=0.0, momentum=0.0),
    train_data=fdl.Config(toy_run.ToyText, num_documents=4),
  )
  assembly, state = toy_run.begin(config)
  batch = place(assembly.batches[0], assembly.batch_sharding)
  train_step, losses = assembly.train_step(), []
  for _ in range(3):  # the same batch, and parameters that do not move
    state, loss = train_step(state, batch)
    losses.append(float(loss))
  assert len(set(losses)) == 3


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_a_step_keeps_every_dtype_and_moments_are_float32_under_bfloat16_parameters(
  microbatch_size,
):
  config = toy_run.toy_config(
    microbatch_size=microbatch_size,
    optimizer=fdl.Config(optimizers.adamw, learning_rate=1e-3),
  )
  config.precision.param_dtype = "bfloat16"
  assembly = assemble(config, cache_dir="unused")
  before = assembly.initializer.abstract
  after, loss = jax.eval_shape(assembly.train_step(), before, assembly.batches[0])
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  assert dtypes(after) == dtypes(before)
  assert {x.dtype for x in jax.tree.leaves(after.params)} == {jnp.dtype("bfloat16")}
  moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim]
  assert {loss.dtype, *(x.dtype for x in moments)} == {jnp.dtype("float32")}
