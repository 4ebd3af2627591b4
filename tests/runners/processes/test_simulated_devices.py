"""Simulated devices get threads enough, unless the user says how many."""

import pytest

from runners.processes.simulated_devices import give_threads

EIGHT = "--xla_force_host_platform_device_count=8"


@pytest.mark.parametrize(
  "before, threads",
  [
    ({"XLA_FLAGS": EIGHT}, "64"),
    ({"XLA_FLAGS": f"--xla_dump_to=dump {EIGHT} {EIGHT[:-1]}2"}, "16"),
    ({"XLA_FLAGS": EIGHT, "NPROC": "3"}, "3"),
    ({"XLA_FLAGS": f"{EIGHT[:-1]}1"}, None),
    ({"XLA_FLAGS": "--xla_dump_to=dump"}, None),
    ({}, None),
  ],
)
def test_several_devices_have_eight_threads_each(before, threads):
  environment = dict(before)
  give_threads(environment)
  assert environment == {**before, **({"NPROC": threads} if threads else {})}
