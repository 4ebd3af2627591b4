"""Threads for CPU devices that XLA simulates, so that none waits for another's.

XLA's pool has a thread for each core. Devices that wait for one another in a collective hold
theirs: with fewer threads than devices need, a run can stand still, and one at 16,384 tokens on
8 devices and 2 cores came out with a wrong gradient of its head, the same compiled program that
was right with more threads.
"""

import re
from collections.abc import MutableMapping

THREADS_PER_DEVICE = 8


def give_threads(environment: MutableMapping[str, str]) -> None:
  """Sets NPROC, the size of XLA's pool, where XLA_FLAGS asks for several devices.

  To be called before jax counts its devices. An NPROC of the user's stays.
  """
  flags = environment.get("XLA_FLAGS", "")
  counts = re.findall(r"--xla_force_host_platform_device_count=(\d+)", flags)
  if counts and int(counts[-1]) > 1:  # of a flag given twice the last one holds
    environment.setdefault("NPROC", str(THREADS_PER_DEVICE * int(counts[-1])))
