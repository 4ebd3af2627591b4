"""A policy changes what the backward pass computes again, and nothing else (law 8)."""

from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.request import AttentionRequest
from layers.attention_cores.splash import SplashAttention
from layers.errors import UserError
from layers.feed_forward import GatedFeedForward
from layers.rematerialization import Remat, TensorName, named, rematerialized
from layers.sharding import on_platform
from layers.tokens import Tokens
from runners.devices.flops import count, programs_within

BLOCKWISE = BlockwiseAttention(query_block=4, key_block=4)
KEPT = ("none", "full", "save_attention", "minimal")
LAYERS, TOKENS, D, F, KV = 3, 2 * 12, 32, 128, 16


@pytest.fixture
def repeated(make_decoder, packed):
  """FLOPs of a gradient under a policy, less those of one that keeps everything."""

  def step(remat):
    model = make_decoder(core=BLOCKWISE, remat=remat)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *packed))
    loss = lambda params: model.apply(params, *packed).mean()
    return count(jax.grad(loss), params)

  return lambda remat: step(remat) - step("none")


def _attention_flops():
  heads = lambda num: jnp.ones((2, 12, num, D // 4))
  tokens = Tokens.unpacked(2, 12)
  request = AttentionRequest(heads(4), heads(2), heads(2), tokens, tokens)
  return LAYERS * count(lambda: BLOCKWISE(request))


def _product_flops(*features):
  return LAYERS * sum(2 * TOKENS * D * n for n in features)


def test_all_of_a_layer_is_computed_again_under_full(repeated):
  # The last product feeds the stream alone, whose value no gradient needs.
  weights = _product_flops(D, KV, KV, D, F)
  assert repeated("full") == _attention_flops() + weights


def test_nobody_attends_again_who_keeps_what_attention_gave(repeated):
  assert repeated("full") - repeated("save_attention") == _attention_flops()
  assert repeated(Remat(save=("attention",))) == repeated("save_attention")
  assert repeated(Remat(offload=("attention",))) == repeated("save_attention")


def gradient_kernels(core, length, policy):
  """How many Pallas kernels a gradient of `core` calls under a policy."""
  heads, tokens = jnp.ones((1, length, 2, 8)), Tokens.unpacked(1, length)
  request = lambda x: AttentionRequest(x, x, x, tokens, tokens, compute_dtype="bfloat16")
  attend = lambda x: core(request(x)).sum()
  attend = rematerialized(attend, policy, in_scan=False)
  return _kernels_in(jax.make_jaxpr(jax.grad(attend))(heads).jaxpr)


def _kernels_in(jaxpr):
  """Calls that give something: tracing may leave one in whose results nobody reads."""
  calls = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "pallas_call":
      calls += 1
    elif equation.outvars:
      calls += sum(map(_kernels_in, programs_within(equation.params)))
  return calls


def test_nobody_attends_again_in_splash_who_keeps_what_it_gave():
  core = SplashAttention(query_block=128, key_block=128)
  found = {policy: gradient_kernels(core, 128, policy) for policy in KEPT}
  assert found == {"none": 3, "full": 4, "save_attention": 3, "minimal": 3}


IN_A_RING = """
import json
import jax, numpy as np
from jax.sharding import Mesh
from layers.attention_cores.ring import RingAttention
from layers.sharding import partitioned
from layers.attention_cores.splash import SplashAttention
from tests.layers.test_rematerialization import KEPT, gradient_kernels
core = RingAttention(inner=SplashAttention(query_block=128, key_block=128))
with partitioned(Mesh(np.array(jax.devices()), ("sequence",)), [("length", "sequence")]):
  print(json.dumps([gradient_kernels(core, 512, policy) for policy in KEPT]))
"""


def test_nor_in_a_ring_of_splash_kernels(run_with_devices):
  none, full, saved, minimal = run_with_devices(2, IN_A_RING)
  assert none == saved == minimal
  assert full > none


def test_products_with_weights_are_done_once_under_dots(repeated):
  assert repeated("dots") == _attention_flops()
  assert repeated("minimal") == 0


def test_a_projection_that_is_kept_is_not_made_again(repeated):
  kept = Remat(save=("query", "key"), offload=("up",))
  assert repeated("full") - repeated(kept) == _product_flops(D, KV, F)


def kept_by_scanned_layers(model, params, batch):
  """(shape without layers, dtype) of all that the forward pass stacks for the backward pass."""
  loss = lambda params: model.apply(params, *batch).astype(jnp.float32).mean()
  jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
  loop = next(equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
  body = loop.params["jaxpr"]
  body = getattr(body, "jaxpr", body)
  within = zip(loop.outvars, body.outvars, strict=True)
  stacked = [x.aval for x, one in within if x.aval.shape != one.aval.shape]  # not carried on
  return sorted((x.shape[1:], str(x.dtype)) for x in stacked if x.ndim > 2)


@pytest.mark.parametrize("gated", [False, True])
def test_accelerators_keep_the_inputs_of_cheap_work_rounded_and_not_what_it_gives(
  make_decoder, packed, gated
):
  types = {"compute_dtype": "bfloat16", "activation_dtype": "bfloat16"}
  model = make_decoder(core=BLOCKWISE, **types)
  rounded = lambda module: module.clone(compute_dtype="bfloat16")
  feed_forward = rounded(GatedFeedForward(F) if gated else model.block.feed_forward)
  attention = rounded(model.block.attention)
  model = model.clone(block=model.block.clone(attention=attention, feed_forward=feed_forward))
  params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *packed))
  with on_platform("gpu"):
    kept = kept_by_scanned_layers(model, params, packed)
  stream, heads, narrow = (2, 12, D), (2, 12, 4, D // 4), (2, 12, 2, D // 4)
  of_sums, moments = (2, 2, 2, 12), (2, 12, 1)  # of attention; of two norms
  assert [shape for shape, dtype in kept if dtype == "float32"] == [of_sums, *[moments] * 4]
  shapes = [shape for shape, dtype in kept if dtype == "bfloat16"]
  # What the block was given, and what attention added to it.
  assert shapes.count((2, 12, F)) == (2 if gated else 1)  # not what the activation gives
  assert shapes.count(stream) == 2
  assert shapes.count(heads) == 1 and shapes.count(narrow) == 2
  assert len(shapes) == (8 if gated else 7)


def test_layers_name_every_tensor_that_can_be_kept(make_decoder, packed):
  model = make_decoder()
  model = model.clone(block=model.block.clone(feed_forward=GatedFeedForward(F)))
  params = jax.eval_shape(model.init, jax.random.key(0), *packed)
  jaxpr = str(jax.make_jaxpr(model.apply)(nn.unbox(params), *packed))
  for name in get_args(TensorName):
    assert f"name={name}" in jaxpr


def test_what_is_offloaded_waits_in_the_hosts_memory(make_decoder, packed):
  model = make_decoder(remat=Remat(save=("query",), offload=("block_input",)))
  params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *packed))
  loss = lambda params: model.apply(params, *packed).mean()
  kept = str(jax.make_jaxpr(jax.grad(loss))(params))
  assert "<host>[3,2,12,32]" in kept  # the stream, of all layers


def test_a_misspelt_tensor_is_an_error_that_names_the_nearest():
  with pytest.raises(UserError, match=r"Remat.save: there is no tensor 'quary': .* query\?"):
    Remat(save=("quary",))  # pyright: ignore[reportArgumentType]
  with pytest.raises(UserError, match=r"Remat.offload: .* 'zzz': there are block_input, "):
    Remat(offload=("zzz",))  # pyright: ignore[reportArgumentType]
  with pytest.raises(UserError, match="a layer's tensor: there is no tensor 'out'"):
    named(jnp.ones(1), "out")


def test_a_tensor_is_kept_in_one_place():
  with pytest.raises(UserError, match="Remat keeps key in two places"):
    Remat(save=("key", "query"), offload=("key",))


ON_A_MESH = """
import json
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from layers.attention import Attention
from layers.block import Block
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.feed_forward import GatedFeedForward
from layers.normalization import RMSNorm
from layers.rematerialization import Remat
from layers.attention_cores.ring import RingAttention
from layers.sharding import partitioned
from layers.stack import Stack
from layers.tokens import Tokens
from runners.devices.flops import count
from runners.devices.meshes import DEFAULT_RULES
shape = (2, 2, 2)
mesh = Mesh(np.array(jax.devices()).reshape(1, *shape), ("data", "fsdp", "sequence", "tensor"))
x, tokens = jax.random.normal(jax.random.key(1), (2, 16, 8)), Tokens.unpacked(2, 16)
core = RingAttention(inner=BlockwiseAttention(query_block=4, key_block=4))
block = Block(Attention(2, core=core), GatedFeedForward(16), RMSNorm())
everything = Remat(save=("query", "key", "up"), offload=("block_input", "attention", "value"))
flops, results = [], []
for remat in ("none", "full", "save_attention", everything):
  stack = Stack(block, 2, remat=remat)
  def loss(params):
    with partitioned(mesh, DEFAULT_RULES):
      return jnp.square(stack.apply(params, x, tokens)).mean()
  params = nn.unbox(stack.init(jax.random.key(0), x, tokens))
  flops.append(count(jax.grad(loss), params))
  if remat in ("none", everything):
    results.append(jax.jit(jax.value_and_grad(loss))(params))
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
jax.tree.map(close, *results)
print(json.dumps(flops))
"""


@pytest.mark.slow
def test_a_ring_goes_round_once_for_those_who_keep_what_it_gave(run_with_devices):
  none, full, saved, everything = run_with_devices(8, ON_A_MESH)
  of_weights = 2 * 2 * (2 * 16) * 8 * (3 * 8 + 8 + 2 * 16)
  assert saved - none == of_weights
  assert full - saved > 0
  assert everything - none == of_weights - 2 * 2 * (2 * 16) * 8 * (3 * 8 + 16)
