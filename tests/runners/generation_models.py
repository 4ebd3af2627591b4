"""Tiny models to generate with, and what they generate on several meshes, as JSON."""

import json
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.llama import RULES
from layers import cache
from layers.attention import Attention
from layers.block import Block
from layers.decoder import Decoder
from layers.feed_forward import FeedForward, GatedFeedForward
from layers.normalization import LayerNorm, RMSNorm
from layers.rotary import Rotary
from layers.sampling import Sampling
from layers.sharding import partitioned
from layers.tokens import Tokens
from runners.devices.meshes import AXES, DEFAULT_RULES
from runners.generation.generator import Generator

NUM_IDS = 48
PROMPTS = [np.array(ids, np.int32) for ids in ([7, 1, 40, 3, 3], [9], [2, 30, 5, 11, 6, 8, 20])]
PROMPTS.append(np.array([15, 16], np.int32))
# Axis sizes, and the part of the cache that a device holds then: rows, slots, heads, features.
MESHES = {
  "gpt2": ({"data": 2, "fsdp": 2, "tensor": 2}, [1, 18, 1, 8]),
  "llama": ({"fsdp": 2, "sequence": 2, "tensor": 2}, [2, 9, 1, 8]),
}
NUM_NEW = 12


def make_model(family: str) -> Decoder:
  """Two layers of 4 heads on 2 key heads; "gpt2" is unrolled, "llama" scanned."""
  is_llama = family == "llama"
  attention = Attention(4, 2, rotary=Rotary() if is_llama else None)
  feed_forward = (GatedFeedForward if is_llama else FeedForward)(hidden_dim=64)
  norm = RMSNorm() if is_llama else LayerNorm()
  return Decoder(
    num_layers=2,
    model_dim=32,
    block=Block(attention, feed_forward, norm),
    norm=norm,
    vocab_size=NUM_IDS,
    max_positions=32,
    learned_positions=not is_llama,
    tied_head=not is_llama,
    scan_layers=is_llama,
  )


def model_and_params(family: str) -> tuple[Decoder, Any]:
  """A model and random parameters, drawn without compiling what would initialise them."""
  model, generator = make_model(family), np.random.default_rng(0)

  def draw(path: Any, x: Any) -> jax.Array:
    values = generator.normal(float("scale" in jax.tree_util.keystr(path)), 0.5, x.shape)
    return jnp.asarray(values, x.dtype)  # wide, so that ids depend on what came before

  shapes = nn.unbox(boxed_params(model))
  return model, jax.tree_util.tree_map_with_path(draw, shapes)


def boxed_params(model: Decoder) -> Any:
  ids, tokens = jnp.zeros((1, 4), int), Tokens.unpacked(1, 4)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), ids, tokens))["params"]


def rules_of(model: Decoder) -> Any:
  return DEFAULT_RULES if model.learned_positions else RULES


def mesh_of(**sizes: int) -> Mesh:
  """Over the first devices, as many as the sizes multiply to."""
  shape = [sizes.get(axis, 1) for axis in AXES]
  return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), AXES)


def generator(model: Decoder, mesh: dict[str, int], end_ids: Sequence[int] = ()) -> Generator:
  return Generator(
    model,
    mesh_of(**mesh),
    rules_of(model),
    num_ids=NUM_IDS,
    context=model.max_positions,
    end_ids=end_ids,
  )


def on_a_mesh(family: str, how: Sampling) -> None:
  """Prints what is generated on one device and on its mesh, and how the cache lies there."""
  model, params = model_and_params(family)
  sizes, _ = MESHES[family]
  shardings = nn.spmd.logical_to_mesh_sharding(
    nn.get_partition_spec(boxed_params(model)), mesh_of(**sizes), rules_of(model)
  )
  placed = jax.device_put(params, shardings)
  one = generator(model, {})(params, PROMPTS, max_tokens=NUM_NEW, sampling=how)
  eight = generator(model, sizes)(placed, PROMPTS, max_tokens=NUM_NEW, sampling=how)
  part = _cache_part(model, placed, mesh_of(**sizes))
  print(json.dumps([[row.tolist() for row in one], [row.tolist() for row in eight], part]))


def _cache_part(model: Decoder, params: Any, mesh: Mesh) -> list[int]:
  """The shape of a device's part of the last layer's keys after one token."""
  rules = [rule for rule in rules_of(model) if rule[0] != "length"]

  @jax.jit
  def one_token(params: Any) -> Any:
    variables = cache.empty_cache(model, params, len(PROMPTS), 18)
    ids, tokens = jnp.ones((len(PROMPTS), 1), int), Tokens.unpacked(len(PROMPTS), 1)
    return model.apply({"params": params} | variables, ids, tokens, mutable=["cache"])[1]

  with partitioned(mesh, (*rules, ("cache_length", "sequence"))):
    kept = jax.tree.leaves(one_token(params))[-1]
  return list(kept.sharding.shard_shape(kept.shape))[-4:]
