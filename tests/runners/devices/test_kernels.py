"""Kernels are counted with their bytes, FLOPs, trips and stacks, as a hand count has them."""

import jax
import jax.numpy as jnp
import pytest

from runners.devices.hlo import Program
from runners.devices.kernels import Kernel, kernels

# A loop of 3 keeps the rounded [8] that a second loop reads back; weights [3,8] are sliced too.
LOOPS = """HloModule jit_step

%rounds (p0: f32[8], p1: bf16[3,8], p2: s32[]) -> (f32[8], bf16[3,8]) {
  %p0 = f32[8]{0} parameter(0)
  %p1 = bf16[3,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %twice = f32[8]{0} add(%p0, %p0)
  %short = bf16[8]{0} convert(%twice)
  %row = bf16[1,8]{1,0} bitcast(%short)
  %put = bf16[3,8]{1,0} dynamic-update-slice(%p1, %row, %p2, %zero)
  ROOT %both = (f32[8]{0}, bf16[3,8]{1,0}) tuple(%twice, %put)
}

%reads (p0: f32[3,8], p1: bf16[3,8], p2: s32[], p3: f32[8]) -> f32[8] {
  %p0 = f32[3,8]{1,0} parameter(0)
  %p1 = bf16[3,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %p3 = f32[8]{0} parameter(3)
  %zero = s32[] constant(0)
  %w = f32[1,8]{1,0} dynamic-slice(%p0, %p2, %zero), dynamic_slice_sizes={1,8}
  %all = f32[3,8]{1,0} convert(%p1)
  %k = f32[1,8]{1,0} dynamic-slice(%all, %p2, %zero), dynamic_slice_sizes={1,8}
  %wk = f32[1,8]{1,0} multiply(%w, %k)
  %flat = f32[8]{0} bitcast(%wk)
  ROOT %sum = f32[8]{0} add(%flat, %p3)
}

%forward (f: (s32[], f32[8], bf16[3,8])) -> (s32[], f32[8], bf16[3,8]) {
  %f = (s32[], f32[8]{0}, bf16[3,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%f), index=0
  %x = f32[8]{0} get-tuple-element(%f), index=1
  %s = bf16[3,8]{1,0} get-tuple-element(%f), index=2
  %made = (f32[8]{0}, bf16[3,8]{1,0}) fusion(%x, %s, %i), kind=kLoop, calls=%rounds,
    metadata={op_name="jit(step)/jvp(Block)/feed_forward/add"}
  %y = f32[8]{0} get-tuple-element(%made), index=0
  %kept = bf16[3,8]{1,0} get-tuple-element(%made), index=1
  ROOT %f2 = (s32[], f32[8]{0}, bf16[3,8]{1,0}) tuple(%i, %y, %kept)
}

%backward (b: (s32[], f32[8], bf16[3,8], f32[3,8])) -> (s32[], f32[8], bf16[3,8], f32[3,8]) {
  %b = (s32[], f32[8]{0}, bf16[3,8]{1,0}, f32[3,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%b), index=0
  %g = f32[8]{0} get-tuple-element(%b), index=1
  %r = bf16[3,8]{1,0} get-tuple-element(%b), index=2
  %u = f32[3,8]{1,0} get-tuple-element(%b), index=3
  %h = f32[8]{0} fusion(%u, %r, %j, %g), kind=kLoop, calls=%reads
  ROOT %b2 = (s32[], f32[8]{0}, bf16[3,8]{1,0}, f32[3,8]{1,0}) tuple(%j, %h, %r, %u)
}

ENTRY %main (x0: f32[8], w0: f32[3,8], e0: bf16[3,8]) -> f32[8] {
  %x0 = f32[8]{0} parameter(0)
  %w0 = f32[3,8]{1,0} parameter(1)
  %e0 = bf16[3,8]{1,0} parameter(2)
  %n = s32[] constant(0)
  %t1 = (s32[], f32[8]{0}, bf16[3,8]{1,0}) tuple(%n, %x0, %e0)
  %l1 = (s32[], f32[8]{0}, bf16[3,8]{1,0}) while(%t1), condition=%c, body=%forward,
    backend_config={"known_trip_count":{"n":"3"}}
  %o = f32[8]{0} get-tuple-element(%l1), index=1
  %q = bf16[3,8]{1,0} get-tuple-element(%l1), index=2
  %t2 = (s32[], f32[8]{0}, bf16[3,8]{1,0}, f32[3,8]{1,0}) tuple(%n, %o, %q, %w0)
  %l2 = (s32[], f32[8]{0}, bf16[3,8]{1,0}, f32[3,8]{1,0}) while(%t2), condition=%c,
    body=%backward, backend_config={"known_trip_count":{"n":"3"}}
  %z = f32[8]{0} get-tuple-element(%l2), index=1
  ROOT %out = f32[8]{0} copy(%z)
}
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Kernel]:
  return {kernel.name: kernel for kernel in kernels(Program(LOOPS), "gpu")}


def test_a_kernel_in_a_loop_counts_as_often_as_it_runs(found):
  assert {name: kernel.times for name, kernel in found.items()} == {"made": 3, "h": 3, "out": 1}
  assert found["out"].bytes == 32 + 32


def test_a_stack_is_written_a_slice_at_a_time_and_not_read(found):
  # The [8] floats in and out, 16 bytes of the stack, and the index.
  assert found["made"].bytes == 3 * (32 + 32 + 16 + 4)
  assert found["made"].kept == 3 * 16
  assert found["made"].results == 3 * 32


def test_a_stack_is_read_back_a_slice_at_a_time_even_where_it_is_converted_first(found):
  # One row of the weights and one of the stack, the index, the [8] floats in and out.
  assert found["h"].bytes == 3 * (32 + 16 + 4 + 32 + 32)
  assert found["h"].kept == 3 * 16  # a row of the weights is no stack of the forward loop


def test_a_slice_counts_alone_however_deep_it_is_fused():
  name = "%reads "
  inner = LOOPS[LOOPS.index(name) : LOOPS.index("%forward ")]
  outer = """%outer (q0: f32[3,8], q1: bf16[3,8], q2: s32[], q3: f32[8]) -> f32[8] {
  %q0 = f32[3,8]{1,0} parameter(0)
  %q1 = bf16[3,8]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %q3 = f32[8]{0} parameter(3)
  ROOT %in = f32[8]{0} fusion(%q0, %q1, %q2, %q3), kind=kLoop, calls=%reads
}

"""
  text = LOOPS.replace(inner, inner + outer).replace(
    "%j, %g), kind=kLoop, calls=%reads", "%j, %g), kind=kLoop, calls=%outer"
  )
  nested = {kernel.name: kernel for kernel in kernels(Program(text), "tpu")}
  assert nested["h"].bytes == 3 * (32 + 16 + 4 + 32 + 32)


def test_kernels_say_what_they_do_and_where_they_come_from(found):
  kinds = {name: kernel.kind for name, kernel in found.items()}
  assert kinds == {"made": "elementwise", "h": "elementwise", "out": "copies"}
  assert found["made"].source == "jit(step)/jvp(Block)/feed_forward/add"


def _program(*lines, before=""):
  head = "ENTRY %main (a: f32[8]) -> f32[8] {\n"
  return Program(before + head + "\n".join(lines) + "\n}\n")


def _entry(*lines):
  return kernels(_program(*lines), "tpu")


def test_a_choice_counts_by_its_dearest_branch_or_its_cheapest():
  branch = "%{0} ({0}p: f32[8]) -> f32[8] {{\n  %{0}p = f32[8]{{0}} parameter(0)\n{1}}}\n\n"
  cheap = branch.format("cheap", "  ROOT %c1 = f32[8]{0} copy(%cheapp)\n")
  two = "  %d1 = f32[8]{0} copy(%dearp)\n  ROOT %d2 = f32[8]{0} copy(%d1)\n"
  program = _program(
    "  %a = f32[8]{0} parameter(0)",
    "  %p = pred[] parameter(1)",
    "  ROOT %c = f32[8]{0} conditional(%p, %a, %a), branch_computations={%cheap, %dear}",
    before=cheap + branch.format("dear", two),
  )
  choice, first, second = kernels(program, "tpu")
  assert (first.name, second.name) == ("d1", "d2")
  assert (choice.kind, choice.times, choice.bytes) == ("choices", 1, 0)
  assert [each.name for each in kernels(program, "tpu", cheapest=True)] == ["c", "c1"]


def test_memory_on_the_chip_is_no_memory_and_exchanges_are_counted_elsewhere():
  start, _, gather = _entry(
    "  %a = f32[8]{0} parameter(0)",
    "  %s = (f32[8]{0:S(1)}, f32[8]{0}, u32[]{:S(2)}) copy-start(%a)",
    "  %d = f32[8]{0:S(1)} copy-done(%s)",
    "  %e = f32[8]{0:S(1)} negate(%d)",
    "  ROOT %g = f32[16]{0} all-gather(%e), replica_groups={}",
  )
  assert (start.bytes, start.kind) == (32, "copies")
  assert (gather.bytes, gather.kind) == (0, "exchanges")


def test_a_scatter_touches_the_rows_that_it_changes():
  (scatter,) = _entry(
    "  %a = f32[100,8]{1,0} parameter(0)",
    "  %i = s32[3,1]{1,0} parameter(1)",
    "  %u = f32[3,8]{1,0} parameter(2)",
    "  ROOT %s = f32[100,8]{1,0} scatter(%a, %i, %u), to_apply=%add",
  )
  assert scatter.bytes == 96 + 12 + 96 + 96
  assert scatter.kind == "reductions"


def test_a_gather_reads_the_rows_that_it_takes():
  (gather,) = _entry(
    "  %a = f32[100,8]{1,0} parameter(0)",
    "  %i = s32[3,1]{1,0} parameter(1)",
    "  ROOT %s = f32[3,8]{1,0} gather(%a, %i), offset_dims={1}",
  )
  assert gather.bytes == 96 + 12 + 96


def test_a_compiled_scan_counts_its_products_and_weights_once_a_layer():
  def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  x, weights = jnp.ones((4, 32)), jnp.ones((5, 32, 32))
  found = kernels(Program(jax.jit(layers).lower(x, weights).compile().as_text()), "cpu")
  assert sum(kernel.flops for kernel in found) == 5 * 2 * 4 * 32 * 32
  products = [kernel for kernel in found if kernel.kind == "products"]
  assert products and all(kernel.times == 5 for kernel in products)
  weight, row = 4 * 32 * 32, 4 * 4 * 32
  # Each product reads one layer's weights, not all five, and a row in and out.
  assert sum(kernel.bytes for kernel in products) == 5 * (weight + 2 * row)
