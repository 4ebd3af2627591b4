"""`runner --version`: the versions to name in a bug report."""

import importlib.metadata
import platform

_PACKAGES = ("strata", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "fiddle")


def versions() -> str:
  """A line for Strata, for each package that affects a run's results, and for Python."""
  lines = []
  for package in _PACKAGES:
    try:
      lines.append(f"{package} {importlib.metadata.version(package)}")
    except importlib.metadata.PackageNotFoundError:
      lines.append(f"{package} is not installed")
  return "\n".join([*lines, f"python {platform.python_version()}"])
