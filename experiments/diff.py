"""The fields in which two configs differ, each given as an experiment, a run or a file."""

import os

import fiddle as fdl

from experiments import registry
from experiments.override_arguments import Override
from experiments.resolution import resolve
from layers.errors import UserError
from runners.configs.files import differences


def diff(before: str, after: str) -> list[str]:
  """Lines `path: old -> new`; empty when the configs are equal."""
  return [
    f"{path}: {'(absent)' if old is None else old} -> {'(absent)' if new is None else new}"
    for path, old, new in differences(config_called(before), config_called(after))
  ]


def config_called(name: str) -> fdl.Config:
  """An experiment by name; a run by folder; a config.json or override file by path."""
  if os.path.exists(name):
    return resolve(None, [Override("config", name)]).config
  if "/" in name or name.endswith((".json", ".yaml", ".yml")):
    raise UserError(f"there is no run or config file {name}")
  return registry.find(name).experiment().config()
