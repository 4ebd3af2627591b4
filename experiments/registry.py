"""Experiments by name: `gpt2.Nano` is the class `Nano` that the module `gpt2` registers.

A module called `experiments` is known by its package's name: in `my_lab/experiments.py` the
class `MyModel` is `my_lab.MyModel`.

A module is imported only when one of its experiments is requested. Besides the families in this
folder, experiments may live in a module given by `--load`, or in an entry point of the group
`strata.experiments` whose value is the module.
"""

import abc
import dataclasses
import functools
import importlib.metadata
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from experiments.declared import Listing, declared, first_line
from input_pipelines.allowed_packages import ENTRY_POINT_GROUP, allow
from layers.errors import UserError
from layers.notices import note
from layers.suggestions import did_you_mean
from runners.configs.import_by_name import import_module

if TYPE_CHECKING:  # these load jax, which a list of names does not need
  import fiddle as fdl

  from runners.trainer import Trainer


class Experiment(abc.ABC):
  """Something to run. Its docstring starts with the paper, the size, the result to expect."""

  @abc.abstractmethod
  def config(self) -> "fdl.Config[Trainer]":
    """A fresh config of the whole run. Builds, downloads and prints nothing."""


@dataclasses.dataclass(frozen=True)
class Entry:
  """One registered experiment."""

  name: str
  experiment: type[Experiment]
  tags: tuple[str, ...]
  execution: Any  # the module's import spec, new each time its code is run

  @property
  def listing(self) -> Listing:
    """Its line in a list."""
    return Listing(self.name, first_line(self.experiment.__doc__), self.tags)


_entries: dict[str, Entry] = {}

E = TypeVar("E", bound=type[Experiment])


@overload
def register(experiment: E) -> E: ...
@overload
def register(*, tags: tuple[str, ...] = ()) -> Callable[[E], E]: ...
def register(
  experiment: E | None = None, *, tags: tuple[str, ...] = ()
) -> E | Callable[[E], E]:
  """Class decorator, `@register` or `@register(tags=("demo",))`: name = "<module>.<Class>".

  A second class of the same name is an error, unless its module was reloaded: then it replaces
  the old one.
  """
  if experiment is None:
    return functools.partial(_add, tags=tags)
  return _add(experiment, tags=tags)


def _add(experiment: E, *, tags: tuple[str, ...]) -> E:
  name = f"{_family(experiment.__module__)}.{experiment.__name__}"
  if not (isinstance(experiment, type) and issubclass(experiment, Experiment)):
    raise TypeError(f"{name} is registered but is no subclass of Experiment")
  module = sys.modules.get(experiment.__module__)
  entry = Entry(name, experiment, tuple(tags), getattr(module, "__spec__", None))
  if (old := _entries.get(name)) and not _is_reload(old, entry):
    raise UserError(
      f"two experiments are called {name!r}: {old.experiment.__module__}."
      f"{old.experiment.__qualname__} and {experiment.__module__}.{experiment.__qualname__};"
      " rename one of the classes or its module"
    )
  _entries[name] = entry
  allow(experiment.__module__)
  return experiment


def _is_reload(old: Entry, new: Entry) -> bool:
  """Whether `new` is the definition of `old` run again: each import has a spec of its own.

  Code typed into a notebook has no spec; there a new definition always replaces the old.
  """
  same = (old.experiment.__module__, old.experiment.__qualname__) == (
    new.experiment.__module__,
    new.experiment.__qualname__,
  )
  return same and (new.execution is None or new.execution is not old.execution)


def find(name: str) -> Entry:
  """The experiment called `name`; imports only modules that may register it."""
  if name not in _entries:
    family = name.partition(".")[0]
    for module in _modules_of(family):
      import_module(module)
  if name in _entries:
    return _entries[name]
  raise _unknown(name)


def check_declared(name: str) -> None:
  """Raises UserError if no family declares `name`; imports none of them."""
  family = name.partition(".")[0]
  elsewhere = set(_modules_of(family)) - {f"experiments.{family}"}
  here = {listing.name for listing in declared().get(family, ())}
  if name not in _entries and name not in here and not elsewhere:
    raise _unknown(name)


def _unknown(name: str) -> UserError:
  names = known_names()
  families = {known.partition(".")[0].lower() for known in names}
  elsewhere = name.partition(".")[0].lower() not in families
  hint = " (if a module of yours registers it, add --load=MODULE)" if elsewhere else ""
  return UserError(f"there is no experiment {name!r}: {did_you_mean(name, names)}{hint}")


def all_experiments() -> list[Entry]:
  """Every experiment that can be reached, imported and sorted by name."""
  for family in declared():
    import_module(f"experiments.{family}")
  _import_entry_points()
  return sorted(_entries.values(), key=lambda entry: entry.name)


def catalogue() -> list[Listing]:
  """Listings of all experiments; this folder's families are read, not imported."""
  _import_entry_points()
  found = {listing.name: listing for family in declared().values() for listing in family}
  found |= {entry.name: entry.listing for entry in _entries.values()}
  return [found[name] for name in sorted(found)]


def known_names() -> list[str]:
  """The names that `find` accepts, for error messages."""
  return [listing.name for listing in catalogue()]


def _import_entry_points() -> None:
  """Imports all entry points; a broken one is reported, and the others still work."""
  for name, module in _entry_points().items():
    try:
      import_module(module)
    except Exception as error:
      reason = f"{type(error).__name__}: {error}"
      note(f"The experiments of {name} ({module}) are left out: {reason}")


def _modules_of(family: str) -> list[str]:
  modules = [f"experiments.{family}"] if family in declared() else []
  points = _entry_points().items()
  return modules + [module for name, module in points if family in (name, _family(module))]


def _family(module: str) -> str:
  """The first part of the names of a module's experiments, `gpt2` in `gpt2.Nano`."""
  *package, last = module.split(".")
  return package[-1] if package and last == "experiments" else last


def _entry_points() -> dict[str, str]:
  points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
  return {point.name: point.module for point in points}
