"""Keeps compiled XLA programs on disk, so that a second start compiles nothing."""

import os
from pathlib import Path

import jax


def enable(cache_dir: str) -> None:
  """Keeps programs that took 0.5 s to compile in `cache_dir`/xla, unless the environment
  names another folder (JAX_COMPILATION_CACHE_DIR).
  """
  if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return
  jax.config.update("jax_compilation_cache_dir", str(Path(cache_dir) / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
