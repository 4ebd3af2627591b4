"""A device has the rates that were measured on it, or else those of its data sheet."""

import pytest

from runners.devices.rates import Rates, rates
from runners.planning.topologies import ACCELERATORS


def test_the_rates_of_an_h200_were_measured():
  assert rates("NVIDIA H200") == Rates(790e12, 4.3e12, 0.9e-6, measured=True)


@pytest.mark.parametrize(
  ("device_kind", "memory"),
  [
    ("NVIDIA A100-SXM4-80GB", 2039e9),
    ("NVIDIA A100-SXM4-40GB", 1555e9),
    ("NVIDIA H100 80GB HBM3", 3350e9),
    ("NVIDIA H100 PCIe", 2000e9),
    ("TPU v5", 2765e9),
  ],
)
def test_others_have_those_of_their_data_sheets(device_kind, memory):
  found = rates(device_kind)
  assert found is not None and found.memory == memory and not found.measured
  assert (found.pause > 0) == device_kind.startswith("NVIDIA")


def test_every_accelerator_that_a_plan_names_has_rates():
  assert {name for name, each in ACCELERATORS.items() if not rates(each.device_kind)} == {"cpu"}


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v99", "NVIDIA H200 MIG 1g.18gb"])
def test_an_unknown_device_has_none(device_kind):
  assert rates(device_kind) is None
