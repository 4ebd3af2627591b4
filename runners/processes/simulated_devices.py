"""Gives XLA enough threads for the CPU devices that it simulates.

XLA's pool has one thread for each core. A device that waits in a collective keeps its thread,
so with too few threads a run can hang. One run (16,384 tokens, 8 devices, 2 cores) even gave a
wrong gradient of the head, from a program that was right with more threads.
"""

import re
from collections.abc import MutableMapping

THREADS_PER_DEVICE = 8


def give_threads(environment: MutableMapping[str, str]) -> None:
  """Sets NPROC, the size of XLA's pool, if XLA_FLAGS asks for several devices.

  Call it before jax counts its devices. A user's own NPROC stays.
  """
  flags = environment.get("XLA_FLAGS", "")
  counts = re.findall(r"--xla_force_host_platform_device_count=(\d+)", flags)
  if counts and int(counts[-1]) > 1:  # the last of a repeated flag counts
    environment.setdefault("NPROC", str(THREADS_PER_DEVICE * int(counts[-1])))
