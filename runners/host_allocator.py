"""Keeps freed host memory in the process, for runs on CPU.

XLA asks for the temporaries of a step anew each time. glibc serves blocks of that size by mmap
and returns them at once, so that every step pays for zeroing all its pages again: a fifth of
a small model's step.
"""

import ctypes
import sys

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
  """Asks glibc not to return freed blocks; other C libraries are left alone."""
  if not sys.platform.startswith("linux"):
    return
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):
    return
  libc.mallopt(_M_MMAP_MAX, 0)
  libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
