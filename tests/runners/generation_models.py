"""Tiny models to generate with, and what they generate on several meshes, as JSON."""

import json
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
from runners.generation import Generator
from runners.meshes import AXES, DEFAULT_RULES

NUM_IDS = 48
PROMPTS = [np.array(ids, np.int32) for ids in ([7, 1, 40, 3, 3], [9], [2, 30, 5, 11, 6, 8, 20])]
PROMPTS.append(np.array([15, 16], np.int32))
# Axis sizes, and the part of the cache that a device holds then: rows, slots, heads, features.
MESHES: list[tuple[dict[str, int], list[int]]] = [
  ({"fsdp": 2, "tensor": 2}, [2, 18, 1, 8]),
  ({"sequence": 2, "tensor": 2}, [4, 9, 1, 8]),
  ({"data": 4}, [1, 18, 2, 8]),
]
NUM_NEW = 12


def make_model(family: str) -> Decoder:
  """Two layers of 4 heads on 2 key heads; "gpt2" is unrolled, "llama" scanned."""
  is_llama = family == "llama"
  attention = Attention(
    4, 2, rotary=Rotary() if is_llama else None, init_stddev=0.3, residual_depth=None
  )
  feed_forward = (GatedFeedForward if is_llama else FeedForward)(
    hidden_dim=64, init_stddev=0.3, residual_depth=None
  )
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
    init_stddev=0.5,  # large, so that ids depend on what came before
    scan_layers=is_llama,
  )


def model_and_params(family: str) -> tuple[Decoder, Any]:
  model = make_model(family)
  ids, tokens = jnp.zeros((1, 4), int), Tokens.unpacked(1, 4)
  variables = jax.jit(model.init)(jax.random.key(0), ids, tokens)
  return model, nn.unbox(variables)["params"]


def rules_of(model: Decoder) -> Any:
  return DEFAULT_RULES if model.learned_positions else RULES


def mesh_of(**sizes: int) -> Mesh:
  """Over the first devices, as many as the sizes multiply to."""
  shape = [sizes.get(axis, 1) for axis in AXES]
  return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), AXES)


def generator(model: Decoder, mesh: dict[str, int], eos_id: int | None = None) -> Generator:
  return Generator(model, mesh_of(**mesh), rules_of(model), NUM_IDS, eos_id)


def on_meshes(family: str) -> None:
  """Prints for one device and for each of MESHES what is generated and how the cache lies."""
  model, params = model_and_params(family)
  ids, tokens = jnp.zeros((1, 4), int), Tokens.unpacked(1, 4)
  boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, tokens))["params"]
  reports = []
  for sizes, _ in [({}, None), *MESHES]:
    shardings = nn.spmd.logical_to_mesh_sharding(
      nn.get_partition_spec(boxed), mesh_of(**sizes), rules_of(model)
    )
    placed = jax.device_put(params, shardings)
    generate = generator(model, sizes)
    greedy = generate(placed, PROMPTS, max_tokens=NUM_NEW, sampling=Sampling(temperature=0.0))
    sampled = generate(placed, PROMPTS, max_tokens=NUM_NEW, sampling=Sampling(top_k=9))
    reports.append(
      {
        "greedy": [row.tolist() for row in greedy],
        "sampled": [row.tolist() for row in sampled],
        "cache": _cache_part(model, placed, mesh_of(**sizes)),
      }
    )
  print(json.dumps(reports))


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
