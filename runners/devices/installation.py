"""What is installed: versions, requirements that are not met, optional parts; nothing imported.

What the metadata of packages say is read, which also works where a package itself is broken.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

DISTRIBUTION = "strata"
SHOWN = (
  *(DISTRIBUTION, "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "fiddle"),
  *("grain", "tensorflow"),
)
# They have to have jaxlib's version.
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt")


class Finding(NamedTuple):
  """Something that is not as it should be, and what to do about it."""

  what: str
  cure: str


def version(name: str) -> str | None:
  """Of an installed distribution; None: it is not installed, or its metadata are damaged."""
  try:
    return importlib.metadata.version(name)
  except (importlib.metadata.PackageNotFoundError, KeyError, ValueError, OSError):
    return None


def versions() -> dict[str, str | None]:
  """Of what runs have most to do with, and of the plugins that are there."""
  plugins = (name for name in (*_PLUGINS, "libtpu") if version(name))
  return {name: version(name) for name in (*SHOWN, *plugins)}


def extras() -> dict[str, list[str]]:
  """Optional part -> its requirements that are not met; {} where strata is not installed."""
  return {extra: [*unmet(extra)] for extra in sorted(_declared_extras())}


def unmet(extra: str = "", distribution: str = DISTRIBUTION) -> Iterator[str]:
  """The requirements of a distribution, or of an optional part of it, that are not met.

  Each as `name>=1,<2`; with `(0.9 is there)` behind it where the version is another.
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
  """What is missing, too old, too new, or does not match."""
  try:
    found = [*_unmet_findings()]
  except ImportError:
    found = [Finding("the package `packaging` is missing", "pip install packaging")]
  if version(DISTRIBUTION) is None:
    what = "strata is not installed: requirements and optional parts cannot be told"
    found.append(Finding(what, "pip install -e . -c constraints.txt, in its folder"))
  return [*found, *mismatches(versions() | {name: version(name) for name in _PLUGINS})]


def mismatches(installed: Mapping[str, str | None]) -> list[Finding]:
  """Plugins of another version than jaxlib, which does not use them."""
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
