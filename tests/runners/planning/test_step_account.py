"""The account of a step adds up kernels to times and to bytes by part of the model and kind."""

import dataclasses

import pytest

from runners.devices.kernels import Kernel
from runners.devices.rates import Rates
from runners.planning.account_report import account_lines, kernel_lines
from runners.planning.step_account import account, bytes_by_kind, dearest, merged

RATES = Rates(flops=1e12, memory=1e9, pause=1e-3)
UP = Kernel(
  name="gemm.1",
  kind="products",
  times=4,
  flops=8 * 10**12,
  bytes=2 * 10**9,
  kept=10**8,
  results=6 * 10**8,
  source="jit(step)/jvp(Decoder)/stack/while/body/Block/feed_forward/up/dot_general",
  place="layers/feed_forward.py:24",
)
NORM = Kernel(
  name="reduce.7",
  kind="reductions",
  times=6,
  flops=0,
  bytes=3 * 10**9,
  kept=10**9,
  results=0,
  source="jit(step)/jvp(Decoder)/stack/while/body/Block/attention_norm/mul",
  place="layers/norms.py:9",
)
GATHER = Kernel("all-gather.2", "exchanges", 2, 0, 0, 0, 0, "jit(step)/jvp()/x", "")
KERNELS = [NORM, UP, GATHER]


def test_times_are_each_alone_and_together_one_after_the_other():
  found = account(KERNELS, RATES, exchanges=0.5)
  assert (found.flops, found.bytes, found.launches) == (8 * 10**12, 5 * 10**9, 12)
  assert (found.products, found.memory, found.exchanges) == (8.0, 5.0, 0.5)
  assert found.pauses == pytest.approx(0.012)
  assert found.seconds == pytest.approx(8 + 5 + 0.5 + 0.012)


def test_the_bound_lets_a_kernel_multiply_while_it_reads():
  # 8 s of products hide the 2 s of bytes of their own kernel, but not the 3 s of another.
  assert account(KERNELS, RATES, exchanges=0.5).bound == pytest.approx(8 + 3 + 0.5 + 0.012)


def test_bytes_are_told_by_part_and_kind_the_largest_part_first():
  parts = account(KERNELS, RATES, None).parts
  assert [*parts] == ["norms", "feed-forward"]
  assert parts["norms"]["reductions"] == 2 * 10**9 and parts["norms"]["kept"] == 10**9
  assert parts["feed-forward"] == {
    "results": 6 * 10**8,
    "operands": 13 * 10**8,
    "kept": 10**8,
    "elementwise": 0,
    "reductions": 0,
    "copies": 0,
  }
  assert sum(sum(kinds.values()) for kinds in parts.values()) == UP.bytes + NORM.bytes


def test_without_rates_bytes_are_counted_and_times_are_not():
  found = account(KERNELS, None, None)
  assert found.seconds is None and found.bound is None and found.bytes == 5 * 10**9
  text = "\n".join(account_lines(found, None, None))
  assert "a step on a device: 8 TFLOP of products, 5 GB of memory, 12 kernels" in text
  assert "no times: the rates" in text and " ms" not in text


def test_the_dearest_are_those_with_most_seconds_and_without_rates_with_most_bytes():
  assert dearest(KERNELS, RATES, 2) == [UP, NORM]
  assert dearest(KERNELS, None, 1) == [NORM]


def test_large_numbers_get_a_larger_unit_and_stay_apart():
  large = dataclasses.replace(UP, bytes=2 * 10**15, flops=3 * 10**18)
  _, head, line = kernel_lines([large], None)
  assert head.split()[:4] == ["ms", "times", "TB", "TFLOP"]
  assert line.split()[:4] == ["n/a", "4", "2,000.00", "3,000,000.0"]


def test_what_every_layer_of_an_unrolled_model_does_is_one_line():
  again = dataclasses.replace(UP, name="gemm.2")
  other = dataclasses.replace(UP, name="gemm.3", bytes=UP.bytes * 2)
  both, alone = merged([UP, again, other])
  assert (both.name, both.times, both.bytes) == ("gemm.1", 8, 2 * UP.bytes)
  assert both.flops == 2 * UP.flops and alone == other


def test_a_choice_is_told_and_is_no_kernel():
  choice = Kernel("cond", "choices", 24, 0, 0, 0, 0, UP.source, "")
  found = account([*KERNELS, choice], RATES, None)
  assert (found.launches, found.choices) == (12, 24)
  assert found.seconds == account(KERNELS, RATES, None).seconds
  said = "\n".join(account_lines(found, RATES, None))
  assert "  24 choices between programs, which a GPU's host has" in said
  assert "choices" not in "\n".join(account_lines(account(KERNELS, RATES, None), RATES, None))


def test_an_exchange_has_no_bytes_of_its_own():
  assert bytes_by_kind(GATHER) == {}


def test_the_text_has_every_sum_and_where_kernels_stand():
  found = account(KERNELS, RATES, 0.5)
  lines = [*account_lines(found, RATES, 0.25)]
  assert lines[1].split() == "products, 8 TFLOP at 1 TFLOP/s 8,000".split()
  assert lines[2].split() == "memory, 5 GB at 1 GB/s 5,000".split()
  assert lines[5].split() == "one after the other 13,512".split()
  assert "25.0% MFU one after the other; rates of the data sheet" in lines[7]
  feed_forward = next(line for line in lines if line.startswith("feed-forward"))
  assert feed_forward.split()[1:] == ["0.60", "1.30", "0.10", "0.00", "0.00", "0.00", "2.00"]
  listed = [*kernel_lines(KERNELS, RATES)]
  assert listed[0] == "the 3 dearest of 3 kinds of kernels"
  assert listed[2].split()[:6] == ["10,000", "4", "2.00", "8,000.0", "products", "forward"]
  assert listed[2].endswith("Block/feed_forward/up  layers/feed_forward.py:24  gemm.1")
