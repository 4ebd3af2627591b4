"""GPT-2's sizes are the published ones, and nanoGPT's configurations are restated exactly."""

import fiddle as fdl
import jax
import jax.numpy as jnp
import pytest

from experiments.registry import find
from layers.tokens import Tokens
from runners.schedules import warmup_cosine


@pytest.mark.parametrize(
  "name, want",
  [
    ("gpt2.Small", 124_439_808),
    ("gpt2.Medium", 354_823_168),
    ("gpt2.Large", 774_030_080),
    ("gpt2.XL", 1_557_611_200),
  ],
)
def test_the_published_sizes_have_the_published_parameter_counts(name, want):
  config = find(name).experiment().config()
  config.model.max_positions = config.sequence_length
  model = fdl.build(config.model)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8), int), Tokens.unpacked(1, 8)
  )
  assert sum(x.size for x in jax.tree.leaves(shapes)) == want


def test_shakespeare_char_cpu_restates_nanogpts_settings():
  config = find("gpt2.ShakespeareCharCpu").experiment().config()
  model, optimizer = config.model, config.optimizer
  assert (model.num_layers, model.block.attention.num_heads, model.model_dim) == (4, 4, 128)
  assert (config.sequence_length, config.batch_size, config.num_steps) == (64, 12, 2000)
  assert (optimizer.b2, optimizer.weight_decay, optimizer.clip_norm) == (0.99, 0.1, 1.0)
  assert model.dropout_rate == model.block.dropout_rate == 0.0
  assert config.train_data.validation_fraction == 0.1
  assert fdl.get_callable(optimizer.learning_rate) is warmup_cosine
  optimizer.learning_rate.num_steps = config.num_steps
  rate = fdl.build(optimizer.learning_rate)
  for step, want in ((0, 0.0), (100, 1e-3), (2000, 1e-4)):
    assert rate(step) == pytest.approx(want)


def test_shakespeare_char_restates_nanogpts_settings():
  config = find("gpt2.ShakespeareChar").experiment().config()
  model = config.model
  assert (model.num_layers, model.block.attention.num_heads, model.model_dim) == (6, 6, 384)
  assert (config.sequence_length, config.batch_size, config.num_steps) == (256, 64, 5000)
  assert model.block.attention.dropout_rate == model.block.dropout_rate == 0.2
