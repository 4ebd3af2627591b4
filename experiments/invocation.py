"""One parsed call of the command line, which is handed to the commands."""

import dataclasses
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from experiments.override_arguments import Override
from experiments.registry import check_declared
from input_pipelines.allowed_packages import allow, check_loadable
from runners.configs.import_by_name import import_module

if TYPE_CHECKING:  # loads jax, which not every command needs
  from experiments.resolution import Resolved


@dataclasses.dataclass(frozen=True)
class Invocation:
  """Arguments and flags; a command reads the flags that it has declared."""

  arguments: tuple[str, ...] = ()
  exp: str | None = None
  overrides: tuple[Override, ...] = ()
  load: tuple[str, ...] = ()
  workdir: str | None = None
  sweep: tuple[str, ...] = ()
  parallel: int = 1
  sort: str | None = None
  step: str = "latest"
  format: str = "flat"
  sharding: bool = False
  devices: int | None = None
  accept_change: tuple[str, ...] = ()
  num_rows: int = 4
  cache: bool = False
  cache_dir: str | None = None
  prompt: tuple[str, ...] = ()
  max_tokens: int | None = None
  temperature: float = 0.8
  top_k: int | None = None
  top_p: float | None = None
  seed: int = 0
  source: str | None = None  # --from
  scan_axis: str | None = None
  to: str | None = None
  dtype: str | None = None
  topology: str | None = None
  search: bool = False
  minutes: float | None = None
  kernels: bool = False
  mfu: float = 0.4
  tokens: float | None = None
  price: float = 0.0
  json: bool = False

  def prepare(self) -> None:
    """Imports the modules of `--load`, even from the current folder, and checks --exp.

    Without --load no code is taken from the current folder: it may be a stranger's.
    """
    if self.load and os.getcwd() not in sys.path:
      sys.path.append(os.getcwd())  # last: a file here hides no installed module
    for module in self.load:
      check_loadable(module)
      allow(module)
      import_module(module)
    if self.exp is not None:
      check_declared(self.exp)

  def resolve(self) -> "Resolved":
    """The requested config; warnings about it go to stderr."""
    from experiments.resolution import resolve

    resolved = resolve(self.exp, self.overrides)
    for warning in resolved.warnings:
      print(f"runner: warning: {warning}", file=sys.stderr)
    return resolved

  def workdir_for(self, exp: str) -> pathlib.Path:
    """`--workdir`, or runs/<experiment>."""
    return pathlib.Path(self.workdir or f"runs/{exp}")
