"""XLA programs kept on disk, so that the second start of an experiment compiles nothing."""

import os
from pathlib import Path

import jax


def enable(cache_dir: str) -> None:
  """Keeps compiled programs under `cache_dir`/xla, unless JAX was told another place."""
  if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return
  jax.config.update("jax_compilation_cache_dir", str(Path(cache_dir) / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
