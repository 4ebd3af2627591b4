"""`runner --version`: what a report of a fault should name."""

import importlib.metadata
import platform

_PACKAGES = ("strata", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "fiddle")


def versions() -> str:
  """A line for Strata and each package that decides what a run computes, and for Python."""
  lines = []
  for package in _PACKAGES:
    try:
      lines.append(f"{package} {importlib.metadata.version(package)}")
    except importlib.metadata.PackageNotFoundError:
      lines.append(f"{package} is not installed")
  return "\n".join([*lines, f"python {platform.python_version()}"])
