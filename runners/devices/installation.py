"""Installed versions, unmet requirements and optional parts, without importing anything.

It reads package metadata, so it also works if a package itself is broken.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

DISTRIBUTION = "strata"
SHOWN = (
  *(DISTRIBUTION, "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "fiddle"),
  *("grain", "tensorflow"),
)
# These must have jaxlib's version.
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt")


class Finding(NamedTuple):
  """A problem, and its cure."""

  what: str
  cure: str


def version(name: str) -> str | None:
  """The version of a distribution; None if it is not installed or its metadata are damaged."""
  try:
    return importlib.metadata.version(name)
  except (importlib.metadata.PackageNotFoundError, KeyError, ValueError, OSError):
    return None


def versions() -> dict[str, str | None]:
  """Name -> version of the main dependencies and of installed plugins; None: not installed."""
  plugins = (name for name in (*_PLUGINS, "libtpu") if version(name))
  return {name: version(name) for name in (*SHOWN, *plugins)}


def extras() -> dict[str, list[str]]:
  """Optional part -> its unmet requirements; empty if strata is not installed."""
  return {extra: [*unmet(extra)] for extra in sorted(_declared_extras())}


def unmet(extra: str = "", distribution: str = DISTRIBUTION) -> Iterator[str]:
  """The unmet requirements of a distribution, or of one of its optional parts.

  Each is `name>=1,<2`, followed by `(0.9 is there)` if another version is installed.
  """
  from packaging import requirements

  for text in _requires(distribution):
    requirement = requirements.Requirement(text)
    is_for = lambda part, marker=requirement.marker: (
      marker is None or marker.evaluate({"extra": part})
    )
    if not is_for(extra) or (extra and is_for("")):
      continue
    found = version(requirement.name)
    if found is None:
      yield f"{requirement.name}{requirement.specifier}"
    elif not requirement.specifier.contains(found, prereleases=True):
      yield f"{requirement.name}{requirement.specifier} ({found} is there)"
    for part in requirement.extras:  # as strata[hf], or jax[cuda13]
      yield from unmet(part, requirement.name)


def findings() -> list[Finding]:
  """Packages that are missing, too old, too new, or do not match jaxlib."""
  try:
    found = [*_unmet_findings()]
  except ImportError:
    found = [Finding("the package `packaging` is missing", "pip install packaging")]
  if version(DISTRIBUTION) is None:
    what = "strata is not installed: requirements and optional parts cannot be told"
    found.append(Finding(what, "pip install -e . -c constraints.txt, in its folder"))
  return [*found, *mismatches(versions() | {name: version(name) for name in _PLUGINS})]


def mismatches(installed: Mapping[str, str | None]) -> list[Finding]:
  """Plugins whose version differs from jaxlib's, which therefore ignores them."""
  there = installed.get("jaxlib")
  others = [name for name in _PLUGINS if installed.get(name) not in (None, there)]
  return [
    Finding(f"{name} {installed[name]} beside jaxlib {there}", f"pip install {name}=={there}")
    for name in (others if there else ())
  ]


def _unmet_findings() -> Iterator[Finding]:
  for requirement in (*unmet(), *unmet(distribution="jax")):
    wanted, _, there = requirement.partition(" (")
    what = f"{wanted} is needed ({there}" if there else f"{wanted} is missing"
    yield Finding(what, f"pip install '{wanted}'")


def _requires(distribution: str) -> list[str]:
  try:
    return importlib.metadata.requires(distribution) or []
  except importlib.metadata.PackageNotFoundError:
    return []


def _declared_extras() -> list[Any]:
  try:
    return importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
  except importlib.metadata.PackageNotFoundError:
    return []
