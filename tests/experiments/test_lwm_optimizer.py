"""The optimizer of lwm.* is LWM's: ten steps of a tiny LLaMA are those of AdamW in NumPy."""

import dataclasses

import fiddle as fdl
import jax
import numpy as np
import pytest

from experiments.llama import Size
from experiments.lwm import TextLlama7B32K, TextLlamaDebug
from experiments.registry import all_experiments
from runners.devices.meshes import place
from runners.forward import ModelForward
from tasks.language_modeling import NextToken
from tasks.objective import with_rows
from tests.runners.toy_run import begin, snapshot, toy_config

STEPS = 10
TINY = Size(num_layers=2, num_heads=2, model_dim=16, hidden_dim=24)


def constant(step, num_steps):
  """LWM's script: 8e-5 after 5 steps of warmup from 0."""
  return 8e-5 * min(step / 5, 1)


def cosine(step, num_steps):
  """A tenth of the steps up to 1e-3, then half a cosine down to 1e-4 at the last step."""
  warmup = num_steps // 10
  if step < warmup:
    return 1e-3 * step / warmup
  part = (step - warmup) / (num_steps - warmup)
  return 1e-4 + (1e-3 - 1e-4) * 0.5 * (1 + np.cos(np.pi * part))


def adamw(params, gradients, moments, step, rate):
  """tux: clipped to a norm of 1, b1 0.9, b2 0.95, eps 1e-8, 0.1 of everything decays."""
  norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
  clipped = [g.astype(np.float64) / max(norm, 1.0) for g in gradients]
  for (mean, square), g in zip(moments, clipped, strict=True):
    mean += 0.1 * (g - mean)
    square += 0.05 * (g * g - square)
  updates = [
    mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.95**step)) + 1e-8)
    for mean, square in moments
  ]
  # Parameters are float32 there: each is rounded to that after every step.
  return [
    (p - rate * (u + 0.1 * p.astype(np.float64))).astype(np.float32)
    for p, u in zip(params, updates, strict=True)
  ]


@pytest.mark.slow
@pytest.mark.plain
@pytest.mark.parametrize(
  ("experiment", "rate"), [(TextLlama7B32K, constant), (TextLlamaDebug, cosine)]
)
def test_ten_steps_are_those_of_adamw_that_decays_everything(experiment, rate):
  model = dataclasses.replace(TINY)
  member = type("Member", (experiment,), {"size": model, "remat": "none"})()
  config = toy_config(model=member.model(), optimizer=member.optimizer(), num_steps=STEPS)
  assembly, state = begin(config)
  step, objective = assembly.train_step(), NextToken()
  built = fdl.build(assembly.config.model)
  params, tree = jax.tree.flatten(snapshot(state.params))
  first = params
  moments = [(np.zeros(p.shape), np.zeros(p.shape)) for p in params]

  @jax.jit
  def gradient(params, batch):
    forward = lambda params: ModelForward(built, params, {}, batch)
    loss = lambda params: objective.loss(forward(params), batch, objective.totals(batch)).loss
    return jax.grad(loss)(params)

  for n in range(STEPS):
    batch = place(assembly.batches[n], assembly.batch_sharding)
    rows = with_rows(batch)
    gradients = jax.tree.leaves(snapshot(gradient(tree.unflatten(params), rows)))
    params = adamw(params, gradients, moments, n + 1, rate(n, STEPS))
    state, _ = step(state, batch)
  for got, want, before in zip(jax.tree.leaves(state.params), params, first, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-7, rtol=0)
    assert np.abs(want - before).max() > 1e-4  # all of them moved, a thousand times as far


def test_every_experiment_of_lwm_has_its_optimizer():
  names = [entry.name for entry in all_experiments() if entry.name.startswith("lwm.")]
  assert len(names) == 13
  for entry in all_experiments():
    if entry.name in names:
      optimizer = fdl.build(entry.experiment().config().optimizer.__arguments__["decay_mask"])
      assert optimizer is None, entry.name
