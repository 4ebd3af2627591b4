"""Keeps freed host memory in the process, for runs on CPU.

XLA asks for the temporaries of a step anew each time. glibc serves blocks of that size by mmap,
or from an arena of the thread that asks, and returns them at once: every step pays again for
zeroing all its pages, a quarter of a small model's step. Both calls leave other C libraries
alone.

The price is memory: a small block that settles in the place of a large one, for a moment, moves
that to the end of the heap, which grows to several times the temporaries of a step.
"""

import ctypes
import sys

# Parameters of mallopt(3).
_M_MXFAST = 1
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def share_one_arena() -> bool:
  """Has threads that start from now on allocate from the main heap, the one that can be kept.

  To be called before JAX starts its threads; returns whether glibc took it.
  """
  return _mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> bool:
  """Asks glibc not to return freed blocks; returns whether it took it."""
  kept = _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
  # A large block is cut to its alignment; a cutting that waits in a fast bin for somebody to
  # want it is missing when the block is asked for again.
  return kept and _mallopt(_M_MXFAST, 0)


def _mallopt(parameter: int, value: int) -> bool:
  if not sys.platform.startswith("linux"):
    return False
  libc = ctypes.CDLL(None)
  return hasattr(libc, "mallopt") and bool(libc.mallopt(parameter, value))
