"""Exchanges take the time that their links need."""

import pytest

from runners.devices.collectives import Collective
from runners.planning.exchanges import exchange_seconds, link_speed
from runners.planning.topologies import parse

MESH = {"fsdp": 16, "tensor": 2}


def _along(*axes, kind="all-gather", size=1):
  return Collective(kind, axes, 1, size, "")


def test_exchanges_beyond_a_host_go_at_the_speed_of_the_network():
  hosts = parse("h100:4x8")
  assert link_speed(_along("tensor"), MESH, hosts) == 450e9
  assert link_speed(_along("fsdp"), MESH, hosts) == 50e9
  assert link_speed(_along("fsdp"), MESH, parse("v5p:4x4x2")) == pytest.approx(300e9)


def test_an_all_reduce_passes_the_links_twice_and_none_hides_another():
  found = [_along("tensor", size=450), _along("fsdp", kind="all-reduce", size=50)]
  assert exchange_seconds(found, MESH, parse("h100:4x8")) == pytest.approx(1e-9 + 2 * 1e-9)


def test_simulated_devices_exchange_in_no_time():
  assert exchange_seconds([_along("fsdp", size=100)], {"fsdp": 8}, parse("cpu:8")) == 0
