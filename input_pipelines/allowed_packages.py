"""The packages that a config, an override file or a value on the command line may name.

Objects that a config names are imported and later called, and importing a module runs it. A
file may come from a stranger, so a name may only lead into the libraries below, into packages
that the user has allowed, and to objects that Strata offers (runners/configs/allowed_names.py).
Nothing else is imported. The user allows a package

  - with `--load=PACKAGE`, or `--load=PACKAGE.MODULE`, which allows the whole package;
  - by installing it with an entry point of the group `strata.experiments`;
  - in a program of their own by registering an experiment, or with `allow("PACKAGE")`.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable

from layers.errors import UserError, short

ENTRY_POINT_GROUP = "strata.experiments"
FLOORS = ("layers", "input_pipelines", "tasks", "runners", "experiments")
LIBRARIES = ("flax.linen", "jax.nn", "optax")

_MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"  # a module's name in Python

_allowed: set[str] = set()


def allow(module: str) -> None:
  """Allows all names in the top-level package of `module`.

  Strata's own floors are not allowed whole: most functions there do not belong in a config.
  """
  if (package := _package(module)) not in (*FLOORS, "__main__"):
    _allowed.add(package)


def allowed() -> tuple[str, ...]:
  """The packages that the user has allowed in this process so far."""
  return tuple(sorted(_allowed))


def is_allowed(module: str) -> bool:
  """Whether the user has allowed the package of `module`, directly or by an entry point."""
  package = _package(module)
  return package not in FLOORS and (package in _allowed or package in _installed())


def is_library(module: str) -> bool:
  """Whether `module` is one of LIBRARIES, or in one."""
  return any(module == library or module.startswith(f"{library}.") for library in LIBRARIES)


def check_module_name(name: str) -> None:
  """Raises UserError unless `name` has the form of a module's name."""
  if not re.fullmatch(_MODULE, name) or "__main__" in name.split(".")[1:]:
    raise UserError(f"{name!r} is no name of a module: write it like my_lab.experiments")


def check_loadable(name: str) -> None:
  """Raises UserError if `--load=name` would allow a part of Python, which no config needs."""
  check_module_name(name)
  if _package(name) in sys.stdlib_module_names:
    raise UserError(
      f"{name} is a part of Python, which no config may name: --load is for packages with"
      " experiments, layers or tasks"
    )


def check_allowed(module: str) -> None:
  """Raises UserError if importing `module`, named by a config, would run code not allowed."""
  check_module_name(module)
  if module not in sys.modules and not is_allowed(module):
    raise UserError(refusal([module]))


def refusal(names: Iterable[str]) -> str:
  """Why these `module:name`s, or modules, are refused, and the flags that would allow them."""
  names = list(dict.fromkeys(names))
  for name in names:
    if not re.fullmatch(_MODULE, name.partition(":")[0]):
      return f"{short(name)!r} is no name of a class or function, like my_lab.layers:RMSNorm"
  shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
  packages = list(dict.fromkeys(map(_package, names)))
  for package in packages:
    if package in sys.stdlib_module_names:
      return f"{shown}: no config may name parts of Python"
    if package in FLOORS:
      return f"{shown}: no part of a config (docs/security.md says what may be named)"
    if package == "__main__":
      return f"{shown}: a script's own classes have no name elsewhere; put them into a module"
  load = " ".join(f"--load={package}" for package in packages)
  for name in names:
    if _is_missing(package := _package(name)):
      return (
        f"there is no module {name.partition(':')[0]!r} ({package!r} is not found): install the"
        f" package it is in, or start from the folder that holds it, and add {load}"
      )
  return (
    f"{shown}: code outside of Strata is run only with your leave; if you trust it, add {load}"
  )


def _package(name: str) -> str:
  """The top-level package of a module or of a `module:name`."""
  return name.partition(":")[0].partition(".")[0]


@functools.cache  # every distribution's metadata is read
def _installed() -> frozenset[str]:
  points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
  return frozenset(_package(point.module) for point in points)


def _is_missing(package: str) -> bool:
  """Whether a package is neither installed nor in this folder; none of its code is run."""
  if package in sys.modules or os.path.isdir(package) or os.path.isfile(f"{package}.py"):
    return False
  try:
    return importlib.util.find_spec(package) is None
  except (ImportError, ValueError, OSError):  # not a name, or too long
    return True
