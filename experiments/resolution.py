"""Resolves an experiment's name, or a file with one, and overrides to the config to run."""

import dataclasses
from collections.abc import Mapping, Sequence

import fiddle as fdl

from experiments import registry
from experiments.override_arguments import Override
from experiments.override_files import OverrideFile, read_override_file
from experiments.overrides import Applied, Change, apply_overrides
from layers.errors import UserError


@dataclasses.dataclass(frozen=True)
class Resolved:
  """The config to run, the config it started from, and the changes between them.

  `defaults_then`: path -> value as text of defaults that changed since a config.json was made.
  """

  exp: str
  config: fdl.Config
  base: fdl.Config  # before overrides
  experiment: type[registry.Experiment] | None  # None: the base is a run's config.json
  base_source: str  # the experiment's name, or the file
  changes: tuple[Change, ...]
  warnings: tuple[str, ...]
  applied: tuple[Applied, ...]
  defaults_then: Mapping[str, str]


def resolve(
  exp: str | None, overrides: Sequence[Override] = (), *, complete: bool = True
) -> Resolved:
  """The experiment called `exp`, or named by a `--config` file, with `overrides` applied.

  Without `complete`, a required field may be left without a value.
  """
  files = [read_override_file(o.text) for o in overrides if o.verb == "config"]
  name = _experiment_name(exp, files)
  stored = next(((file.config, file.source) for file in files if file.config is not None), None)
  if exp is None and stored is not None:
    (base, source), experiment = stored, None
  else:
    experiment = registry.find(name).experiment
    base, source = experiment().config(), name
  outcome = apply_overrides(base, overrides, complete=complete)
  return Resolved(
    name,
    outcome.config,
    base,
    experiment,
    source,
    outcome.changes,
    outcome.warnings,
    outcome.applied,
    {path: text for file in files for path, text in file.defaults_then.items()},
  )


def _experiment_name(exp: str | None, files: Sequence[OverrideFile]) -> str:
  named = {file.source: file.exp for file in files if file.exp}
  wanted = exp or next(iter(named.values()), None)
  if wanted is None:
    raise UserError("which experiment? Name one with --exp=NAME; `runner list` shows them all")
  for source, other in named.items():
    if other != wanted:
      raise UserError(
        f"{source} is for {other}, and {'--exp' if exp else 'another file'} asks for {wanted};"
        " name one experiment"
      )
  return wanted
