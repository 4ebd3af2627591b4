"""LWM's sizes have LWM's parameters, and its stages the published lengths and bases."""

import fiddle as fdl
import jax
import jax.numpy as jnp
import pytest

from experiments.llama import SIZES, Llama
from experiments.overrides import Override, OverrideErrors, apply_overrides
from experiments.registry import find
from layers.rematerialization import Remat
from layers.tokens import Tokens

LWM = {
  "debug": 17_302_784,
  "200m": 212_366_336,
  "1b": 1_244_227_584,
  "3b": 3_426_473_600,
  "7b": 6_738_415_616,
  "13b": 13_015_864_320,
  "30b": 32_528_943_616,
  "65b": 65_285_660_672,
}
OTHERS = {
  "llama2-70b": 68_976_648_192,
  "llama3-8b": 8_030_261_248,
  "llama3-70b": 70_553_706_496,
  "llama3.1-8b": 8_030_261_248,
  "llama3.1-70b": 70_553_706_496,
}


def num_parameters(size: str) -> int:
  family = type("OfSize", (Llama,), {"size": SIZES[size]})
  model = fdl.build(family().model())
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8), int), Tokens.unpacked(1, 8)
  )
  return sum(x.size for x in jax.tree.leaves(shapes))


def test_the_sizes_have_the_published_parameter_counts():
  assert {size: num_parameters(size) for size in LWM} == LWM
  assert {size: num_parameters(size) for size in OTHERS} == OTHERS
  assert {*LWM, *OTHERS} == set(SIZES)


@pytest.mark.parametrize("member", ["Debug", "200M", "1B", "3B", "7B", "13B", "30B", "65B"])
def test_every_size_is_an_experiment_at_4k(member):
  config = find(f"lwm.TextLlama{member}").experiment().config()
  size = SIZES[member.lower()]
  model, attention = config.model, config.model.block.attention
  assert (model.num_layers, model.model_dim) == (size.num_layers, size.model_dim)
  assert (attention.num_heads, attention.rotary.theta) == (size.num_heads, 10_000.0)
  assert (config.sequence_length, config.init_from) == (4096, None)
  assert not model.tied_head and not model.learned_positions


@pytest.mark.parametrize(
  "context, before, theta, length, num_steps",
  [
    ("32K", "", 1e6, 32_768, 1200),
    ("128K", "32K", 1e7, 131_072, 3000),
    ("256K", "128K", 1e7, 262_144, 3000),
    ("512K", "256K", 2.5e7, 524_288, 720),
    ("1M", "512K", 5e7, 1_048_576, 450),
  ],
)
def test_a_stage_has_the_published_base_and_length_and_begins_with_the_one_before(
  context, before, theta, length, num_steps
):
  config = find(f"lwm.TextLlama7B{context}").experiment().config()
  assert config.model.block.attention.rotary.theta == theta
  assert config.sequence_length == length
  assert config.batch_size * length == 2**22 and config.num_steps == num_steps
  assert config.init_from == f"runs/lwm.TextLlama7B{before}"


def test_what_is_kept_for_the_backward_pass_is_named_on_the_command_line():
  def overridden(value):
    config = find("lwm.TextLlamaDebug").experiment().config()
    return apply_overrides(config, [Override("set", f"model.remat={value}")]).config

  assert overridden("save_attention").model.remat == "save_attention"
  kept = overridden("@Remat(save=['query',key],offload=[block_input])").model.remat
  assert fdl.build(kept) == Remat(save=("query", "key"), offload=("block_input",))
  with pytest.raises(OverrideErrors, match=r"got \['quary'\]; did you mean query\?"):
    overridden("@Remat(save=['quary'])")
  with pytest.raises(OverrideErrors, match=r"@MeshShape\(\) gives MeshShape"):
    overridden("@MeshShape()")
