"""The FLOPs counted in a program are those that a hand count gives, however it is wrapped."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from runners.devices import flops


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


SQUARE = array(8, 8)
SQUARE_FLOPS = 2 * 8**3  # one [8, 8] @ [8, 8]


@jax.custom_vjp
def product_with_own_gradient(x, w):
  return x @ w


product_with_own_gradient.defvjp(
  lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g)
)


@jax.custom_jvp
def product_with_own_tangent(x, w):
  return x @ w


product_with_own_tangent.defjvp(lambda x, dx: (x[0] @ x[1], dx[0] @ x[1] + x[0] @ dx[1]))


def test_a_dense_layer_costs_two_per_multiply_add():
  def dense(x, w, b):
    return jax.nn.gelu(x @ w + b)

  assert flops.count(dense, array(4, 16, 32), array(32, 64), array(64)) == 2 * 4 * 16 * 32 * 64


def test_grouped_heads_cost_what_all_query_heads_cost():
  B, T, S, K, G, H = 2, 6, 10, 3, 4, 5

  def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("BTKGH,BSKH->BKGTS", q, k))
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v)

  counted = flops.count(attention, array(B, T, K, G, H), array(B, S, K, H), array(B, S, K, H))
  assert counted == 2 * (2 * B * K * G * T * S * H)


@pytest.mark.parametrize(
  "wrap", [jax.jit, jax.checkpoint, product_with_own_gradient, product_with_own_tangent]
)
def test_a_wrapped_product_counts_once(wrap):
  if wrap in (jax.jit, jax.checkpoint):
    wrap = wrap(jnp.matmul)
  assert flops.count(wrap, SQUARE, SQUARE) == SQUARE_FLOPS
  assert flops.count(jax.jit(jax.checkpoint(wrap)), SQUARE, SQUARE) == SQUARE_FLOPS


def test_a_scan_counts_its_body_times_its_length():
  def stack(x, layers):
    return jax.lax.scan(jax.checkpoint(lambda x, w: (x @ w, None)), x, layers)[0]

  assert flops.count(stack, array(4, 8), array(7, 8, 8)) == 7 * 2 * 4 * 8 * 8


def test_nested_loops_multiply():
  def nested(x, w):
    inner = lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y @ w, x)
    return jax.lax.fori_loop(0, 5, lambda _, y: inner(y), x)

  assert flops.count(nested, SQUARE, SQUARE) == 15 * SQUARE_FLOPS


def test_a_loop_of_unknown_length_counts_once_and_is_listed():
  def loop(x, w):
    return jax.lax.while_loop(lambda x: x.sum() < 1e3, lambda x: x @ w, x) @ w

  counted = flops.tally(loop, SQUARE, SQUARE)
  assert counted.flops == 2 * SQUARE_FLOPS
  assert len(counted.open_loops) == 1 and counted.open_loops[0].endswith("while")


def test_a_condition_counts_its_dearest_branch():
  def choose(x, w):
    return jax.lax.switch(
      x.sum().astype(int), [jnp.tanh, lambda x: x @ w @ w, lambda x: x @ w], x
    )

  assert flops.count(choose, SQUARE, SQUARE) == 2 * SQUARE_FLOPS


def test_a_ragged_product_counts_useful_work_alone():
  tokens, num_experts, D, F = 24, 4, 8, 16
  arguments = array(tokens, D), array(num_experts, D, F)
  groups = jax.ShapeDtypeStruct((num_experts,), jnp.int32)
  assert flops.count(jax.lax.ragged_dot, *arguments, groups) == 2 * tokens * D * F

  def loss(x, w, groups):
    return jax.lax.ragged_dot(x, w, groups).sum()

  step = jax.value_and_grad(loss, (0, 1))
  assert flops.count(step, *arguments, groups) == 3 * 2 * tokens * D * F


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_counts_its_kernel_at_every_output(groups):
  B, size, C, out = 2, 9, 8, 12

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  counted = flops.count(convolve, array(B, size, size, C), array(3, 3, C // groups, out))
  assert counted == 2 * B * 7 * 7 * out * 3 * 3 * (C // groups)


def test_shards_that_share_the_work_add_up_to_the_whole():
  mesh = AbstractMesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

  def sharded(x, w, spec):
    product = jax.shard_map(
      jnp.matmul, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec
    )
    return product(x, w)

  for spec in (PartitionSpec("data"), PartitionSpec(("data", "tensor")), PartitionSpec()):
    assert flops.count(lambda x, w, s=spec: sharded(x, w, s), SQUARE, SQUARE) == SQUARE_FLOPS


def multiply(x, w, out):
  out[...] = x[...] @ w[...]


def multiply_but_in_the_first(x, w, out):
  pallas.when(pallas.program_id(0) > 0)(lambda: multiply(x, w, out))


# What a kernel decides upon counts as if it were always done.
@pytest.mark.parametrize("kernel", [multiply, multiply_but_in_the_first])
def test_a_kernel_counts_once_for_every_block_of_its_grid(kernel):
  def product(x, w):
    rows = pallas.BlockSpec((2, 8), lambda i: (i, 0))
    whole = pallas.BlockSpec((8, 8), lambda i: (0, 0))
    return pallas.pallas_call(kernel, x, grid=(4,), in_specs=[rows, whole], out_specs=rows)(
      x, w
    )

  assert flops.count(product, SQUARE, SQUARE) == SQUARE_FLOPS


def test_rematerialisation_changes_no_model_flops():
  def loss(x, w):
    return jnp.tanh(jnp.tanh(x @ w) @ w).sum()

  plain = flops.train_step_flops(loss, SQUARE, SQUARE)
  assert plain == flops.train_step_flops(jax.checkpoint(loss), SQUARE, SQUARE)
  assert plain == 3 * 2 * SQUARE_FLOPS
  assert plain == flops.count(jax.grad(loss, (0, 1)), SQUARE, SQUARE)


@pytest.mark.parametrize(
  "device_kind, tera",
  [
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5", 459),
    ("TPU v6 lite", 918),
    ("NVIDIA A100-SXM4-80GB", 312),
    ("NVIDIA A100 80GB PCIe", 312),
    ("NVIDIA H100 80GB HBM3", 989.4),
    ("NVIDIA H100 PCIe", 756),
    ("NVIDIA H100 NVL", 835),
    ("NVIDIA H200", 989.4),
    ("NVIDIA GH200 480GB", 989.4),
  ],
)
def test_a_known_device_has_its_dense_bfloat16_peak(device_kind, tera):
  assert flops.peak_flops(device_kind) == tera * 1e12


@pytest.mark.parametrize(
  "device_kind", ["cpu", "TPU v99", "NVIDIA A1000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
)
def test_an_unknown_device_has_no_peak(device_kind):
  assert flops.peak_flops(device_kind) is None
