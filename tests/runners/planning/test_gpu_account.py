"""The kernels that a GPU's compiler makes are counted like the program that they come from.

No GPU has to be there, but its compiler: pip install 'strata[gpu-plan]'.
"""

import pytest

from experiments.overrides import Override, apply_overrides
from experiments.registry import find
from runners.planning.plan import plan
from runners.planning.topologies import parse

H200 = parse("h200:1x1")

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not H200.can_compile(),
    reason="compiles for an absent GPU: pip install 'strata[gpu-plan]' brings what that takes",
  ),
]

LAYERS, ROWS, LENGTH, WIDTH, HIDDEN = 3, 2, 512, 768, 3072
SETTINGS = (
  f"batch_size={ROWS}",
  "microbatch_size=None",
  f"sequence_length={LENGTH}",
  f"model.num_layers={LAYERS}",
  "model.scan_layers=True",
  "model.remat='none'",
)


@pytest.fixture(scope="module")
def planned():
  config = find("gpt2.Small").experiment().config()
  config = apply_overrides(config, [Override("set", text) for text in SETTINGS]).config
  return plan(config, "gpt2.Small", H200)


def test_kernels_compute_what_the_program_does(planned):
  account = planned.account()
  assert account.flops == pytest.approx(planned.hardware_flops_per_step, rel=0.01)
  assert account.products == account.flops / 790e12


def test_every_parameter_and_moment_passes_through_memory_once_each_way(planned):
  optimizer = sum(planned.account().parts["optimizer"].values())
  # Parameter, gradient and two moments are read; a parameter and two moments are written. The
  # gradient's norm reads it once more.
  assert 7 * 4 * planned.parameters <= optimizer + 1e6
  assert optimizer <= 10 * 4 * planned.parameters


def test_what_the_backward_pass_needs_is_kept_in_stacks_and_read_back(planned):
  kept = sum(kinds["kept"] for kinds in planned.account().parts.values())
  tokens = LAYERS * ROWS * LENGTH
  # At least the inputs of the products: of attention and its output, of both feed-forward ones.
  inputs = 2 * tokens * (WIDTH + WIDTH + WIDTH + HIDDEN)
  assert 2 * inputs <= kept < planned.account().bytes / 2


def test_the_bound_is_below_the_sum_and_above_each_alone(planned):
  account = planned.account()
  assert max(account.products, account.memory) < account.bound < account.seconds
  assert 0 < planned.model_utilisation(account.seconds) < 1
