"""FLOPs of compiled instructions are those that a count by hand gives."""

import jax
import jax.numpy as jnp
import pytest

from runners.devices.hlo import Program
from runners.devices.hlo_flops import flops_within
from runners.devices.kernel_flops import KernelFlops

FMHA = """custom-call(%a, %b, %b), custom_call_target="__cudnn$fmhaSoftmax{BACK}",
backend_config={"operation_queue_id": "0", "cudnn_fmha_backend_config":
{"intermediate_tensor_shape": {"dimensions": ["2", "4", "8", "8"]}, "mask_type": "{MASK}",
"sliding_window_length": {WINDOW}}}"""


def _flops(shapes, line, kernels=()):
  """FLOPs of one line whose operands %a and %b have these shapes."""
  line = " ".join(line.split())
  text = f"ENTRY %main (a: f32[2]) -> f32[2] {{\n  %a = {shapes[0]} parameter(0)\n"
  text += f"  %b = {shapes[1]} parameter(1)\n  ROOT %x = {line}\n}}\n"
  return flops_within(Program(text), "main", kernels)


def test_a_product_sums_over_what_it_contracts():
  line = (
    "f32[5,4,8]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, "
    "rhs_batch_dims={1}, rhs_contracting_dims={0}"
  )
  assert _flops(("bf16[5,4,6]{2,1,0}", "bf16[6,5,8]{2,1,0}"), line) == 2 * 5 * 4 * 8 * 6


def test_a_product_of_a_library_counts_the_same():
  config = (
    '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}}'
  )
  line = (
    '(f32[4,8]{1,0}, s8[1024]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", '
    f"backend_config={config}"
  )
  assert _flops(("bf16[6,4]{1,0}", "bf16[6,8]{1,0}"), line) == 2 * 4 * 8 * 6


@pytest.mark.parametrize(
  ("window", "out", "pairs"),
  [
    ("size=3 pad=0_0", 7, 7 * 3),  # of 9 elements 7 have both neighbours
    ("size=3 pad=1_1", 9, 9 * 3 - 2),  # those at the ends lack one
    ("size=3 stride=2 pad=0_0", 4, 4 * 3),
    ("size=3 pad=0_0 rhs_dilate=2", 5, 5 * 3),
    ("size=3 pad=0_0 lhs_dilate=2", 15, 8 + 7 + 8),  # every second of 17 places is empty
  ],
)
def test_a_convolution_counts_only_elements_that_there_are(window, out, pairs):
  result = f"f32[2,{out},5]{{2,1,0}}"
  line = f"{result} convolution(%a, %b), window={{{window}}}, dim_labels=b0f_0io->b0f"
  shapes = "f32[2,9,4]{2,1,0}", "f32[3,4,5]{2,1,0}"
  assert _flops(shapes, line) == 2 * 2 * pairs * 4 * 5


@pytest.mark.parametrize(
  ("back", "mask", "window", "pairs", "products"),
  [
    ("", "NO_MASK", 0, 64, 2),
    ("", "CAUSAL", 0, 36, 2),
    ("Backward", "CAUSAL", 0, 36, 5),
    ("", "CAUSAL", 2, 15, 2),
  ],
)
def test_cudnns_attention_counts_pairs_within_its_mask(back, mask, window, pairs, products):
  line = FMHA.replace("{BACK}", back).replace("{MASK}", mask)
  line = "(bf16[2,4,8,16]{3,2,1,0}, u8[0]{0}) " + line.replace("{WINDOW}", str(window))
  shapes = ("bf16[2,8,4,16]{3,2,1,0}",) * 2
  assert _flops(shapes, line) == products * 2 * (2 * 4) * pairs * 16


def test_a_pallas_kernel_is_found_by_its_name_and_shapes():
  kernels = [
    KernelFlops("flash", ((4, 8),), 100),
    KernelFlops("flash", ((2, 8),), 50),
    KernelFlops("flash_residuals", ((4, 8),), 7),
  ]
  call = 'custom-call(%a, %b), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/'
  shapes = ("f32[4]{0}", "f32[4]{0}")
  assert _flops(shapes, f'f32[2,8]{{1,0}} {call}flash/pallas_call"}}', kernels) == 50
  assert _flops(shapes, f'f32[4,8]{{1,0}} {call}flash_residuals/pallas_call"}}', kernels) == 7
  assert _flops(shapes, f'f32[2,8]{{1,0}} {call}pallas_call"}}', kernels) == 50  # by its shape
  assert _flops(shapes, f'f32[6,8]{{1,0}} {call}other/pallas_call"}}', kernels) == 0
  assert _flops(shapes, f'f32[4,8]{{1,0}} {call}other"}}', kernels) == 0


def test_a_compiled_program_counts_what_its_source_does():
  def two(x, w):
    return jnp.tanh(x @ w) @ w.T

  x, w = jnp.ones((4, 6)), jnp.ones((6, 8))
  program = Program(jax.jit(two).lower(x, w).compile().as_text())
  assert program.entry is not None
  assert flops_within(program, program.entry) == 2 * (2 * 4 * 6 * 8)
