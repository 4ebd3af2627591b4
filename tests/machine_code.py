"""How programs of the suite are compiled, and where they are kept.

LLVM's passes are much of the time that a program of a test's size takes: without them the
gradients of a stack of layers, scanned and unrolled, are compiled and computed in half of it.
The program is still the user's then: traced, partitioned, fused and scheduled by the same
passes of XLA; only the machine code of each fusion is plainer. That suffices for results that
are compared with a reference to a tolerance. Such tests may be marked `plain`; tests of bits,
and of runs against other runs, are not: vectors and fused multiply-adds are the user's there.
With STRATA_TESTS_OPTIMIZED=1 (`make test-optimized`, and CI on Python 3.12) no program is
plain.
"""

import os
import sys
from pathlib import Path

_FLAG = "JAX_DISABLE_MOST_OPTIMIZATIONS"


def keep_programs(cache_dir: str) -> None:
  """Programs that tests or processes compile alike are compiled once; before jax is imported.

  Most are small: they are kept when they compile longer than they take to be written and read.
  """
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(cache_dir).absolute() / "xla"))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")


def choose(plain: bool) -> None:
  """Compiles plainly, or as users do, from now on: here and in the processes that begin."""
  value = "1" if plain and not os.environ.get("STRATA_TESTS_OPTIMIZED") else "0"
  if os.environ.get(_FLAG, "0") == value:
    return
  os.environ[_FLAG] = value
  jax = sys.modules.get("jax")
  if jax is not None:  # otherwise it will read the environment
    jax.config.update("jax_disable_most_optimizations", value == "1")
    jax.clear_caches()  # functions of modules were compiled the other way
