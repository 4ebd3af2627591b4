"""Keeps freed host memory in the process, for runs on CPU.

XLA allocates the temporaries of a step anew each time. glibc serves such large blocks by mmap
or from the thread's own arena, and returns them to the system at once. So every step pays again
for zeroed pages, a quarter of a small model's step. With other C libraries both functions do
nothing.

The price is memory: if a small block lands in the place of a freed large one, the large one's
next copy goes to the end of the heap, which grows to several times a step's temporaries.
"""

import ctypes
import sys

# Parameters of mallopt(3).
_M_MXFAST = 1
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def share_one_arena() -> bool:
  """Makes threads that start later allocate from the main heap, the only one that can be kept.

  Call it before JAX starts its threads. Returns whether glibc accepted.
  """
  return _mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> bool:
  """Asks glibc to keep freed blocks; returns whether it accepted."""
  kept = _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
  # Alignment leaves remainders; one kept in a fast bin cannot be merged back, so the next
  # large request fails to reuse the block.
  return kept and _mallopt(_M_MXFAST, 0)


def _mallopt(parameter: int, value: int) -> bool:
  if not sys.platform.startswith("linux"):
    return False
  libc = ctypes.CDLL(None)
  return hasattr(libc, "mallopt") and bool(libc.mallopt(parameter, value))
