"""The folder of a run: its lock, the config it was started with, the record of its starts."""

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl

from input_pipelines.foreign_json import Document, read_document
from layers.errors import UserError
from layers.notices import note
from runners.checkpoints.origin import noted_config, recorded_config
from runners.configs import files as config_files
from runners.configs.placement import is_placement, trainer_field
from runners.configs.tree import flatten
from runners.processes.folder_lock import hold
from runners.processes.workdir_entries import replace_file

RUN_NAME = "run.json"

_SAME_RUN = ": the run goes on with the same batches, equal up to rounding"

_PACKAGES = ("strata", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "fiddle", "clu")


class Workdir:
  """A run's folder, held for this process alone until `close`.

  Creating the object changes only the folder's lock; `record` writes everything else, once the
  run is known to be able to start.

  Args:
    path: the folder, created if missing.
    config: the resolved config of the run to start or continue.
    exp: the experiment's name.
    accept_changes: paths that may differ from the config the folder was started with, defaults
      included. What runners/configs/placement.py lists may in any case, and a note says so.

  Attributes:
    path: the folder.
    fields: path -> value as text of every field of `config`.
    before: the config of the start before, where there is a config.json of it.

  Raises:
    UserError: it cannot be written, another process holds it, or its config differs.
  """

  def __init__(
    self, path: str | Path, config: fdl.Config, exp: str, accept_changes: Sequence[str] = ()
  ):
    self.path, self._config, self._exp = Path(path), config, exp
    self.fields = flatten(config)
    self._starts: list[dict[str, Any]] = []
    self.before: fdl.Config | None = None
    self._lock = hold(self.path)
    try:
      self._check_config(accept_changes)
    except BaseException:
      self._lock.close()
      raise

  def _check_config(self, accept_changes: Sequence[str]) -> None:
    started = self._fields_before()
    if started is None:
      return
    changes = config_files.changes_since(started, self._config)
    moved = [change for change in changes if is_placement(change.path)]
    changes = [change for change in changes if change not in moved]
    refused = [change for change in changes if change.path not in accept_changes]
    if refused:
      listed = "; ".join(change.here_and_there() for change in refused)
      accept = " ".join(f"--accept_change={c.path}" for c in refused)
      raise UserError(
        f"{self.path} was started with another config ({listed}); "
        f"choose another --workdir, or accept with {accept}"
      )
    for change in changes:
      note(f"Accepted: {change.path} was {change.before}, is {change.after}.")
    for change in moved:
      if trainer_field(change.path) != "mesh":  # `record` says it, with both meshes resolved
        note(f"{change.path} was {change.before}, is {change.after}{_SAME_RUN}.")

  def _fields_before(self) -> dict[str, str] | None:
    """Path -> value of the config that the run here was started with; None: there is none."""
    file = self.path / config_files.JSON_NAME
    if file.exists():
      config_files.to_json(self._config, self._exp)  # what our own config names, it may name
      recorded = recorded_config(self.path)
      self.before = recorded.as_it_was()
      return recorded.fields()
    noted = noted_config(self.path)
    if noted is None:
      return None
    step, fields = noted
    if fields is None:
      note(
        f"{file} is missing, and checkpoint {step}, of an older version, does not say its "
        "config: whether the run goes on as it was begun is not known."
      )
    else:
      note(
        f"{file} is missing: the config is compared with what checkpoint {step} says of it, "
        "and the file is written again if the run goes on."
      )
    return fields

  def record(self, facts: Mapping[str, Any]) -> None:
    """Writes the config, and appends to run.json what this start was made of."""
    config_files.save(self._config, self._exp, self.path)
    earlier = read_starts(self.path)
    before, now = earlier[-1].get("mesh") if earlier else None, facts.get("mesh")
    if before is not None and now is not None and before != now:
      was, is_now = _mesh_text(before), _mesh_text(now)
      note(f"The mesh was {was}, is {is_now}{_SAME_RUN}.")
    self._starts = [*earlier, {**environment(), "exp": self._exp, **facts}]
    self._write_starts()

  def record_end(
    self, *, step: int, finished: bool, seconds: float, notes: Sequence[str] = ()
  ) -> None:
    """Adds to the record how far this start came, and whether the run is finished.

    `notes` are the notes and choices of this start, such as the attention core.
    """
    ended = {"step": step, "finished": finished, "seconds": round(seconds, 3)}
    if notes:
      ended["notes"] = list(dict.fromkeys(notes))
    self._starts[-1]["ended"] = ended
    self._write_starts()

  def _write_starts(self) -> None:
    file = self.path / RUN_NAME
    try:
      replace_file(file, json.dumps({"starts": self._starts}, indent=1) + "\n")
    except OSError as error:
      raise UserError(
        f"cannot write {file}: {error.strerror}; make room or mend the folder, and give the "
        "same command again"
      ) from error

  def close(self) -> None:
    self._lock.close()


def _mesh_text(mesh: Mapping[str, int]) -> str:
  return ", ".join(f"{axis}={size}" for axis, size in mesh.items()) or "one device"


def read_starts(workdir: str | Path) -> list[dict[str, Any]]:
  """The record of each start in run.json, the oldest first.

  A start has "ended" if its last step, a callback or a signal ended it, but not if it was
  killed or failed.
  """
  file = Path(workdir) / RUN_NAME
  if not file.exists():
    return []
  try:
    return [_start(value, str(file)) for value in read_document(file).list("starts")]
  except UserError as error:
    note(f"{file} is damaged ({error}) and is written anew.")
    return []


def _start(value: Any, source: str) -> dict[str, Any]:
  """One start, with the types of the fields in use checked."""
  start = Document.of(value, f"{source}, starts")
  if "mesh" in value:
    mesh = start.document("mesh")
    for axis in mesh.values:
      mesh.whole(axis)
  if "ended" in value:
    ended = start.document("ended")
    ended.whole("step")
    ended.flag("finished")
    ended.number("seconds")
  return value


def environment() -> dict[str, Any]:
  """Versions, code revision and command line of this process."""
  return {
    "argv": sys.argv,
    "python": platform.python_version(),
    "versions": {name: _version(name) for name in _PACKAGES},
    "git": _git(),
    "hostname": platform.node(),
  }


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git() -> dict[str, Any] | None:
  """Revision of this code and whether it has local changes; None outside a checkout."""
  folder = Path(__file__).parent
  git = ["git", "-C", str(folder)]
  try:
    # Installed into somebody's checkout, this file is not tracked there.
    tracked = subprocess.run(
      [*git, "ls-files", "--error-unmatch", __file__], capture_output=True
    )
    revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
  except OSError:  # git is not installed
    return None
  if tracked.returncode or revision.returncode or status.returncode:
    return None
  return {"revision": revision.stdout.strip(), "dirty": bool(status.stdout.strip())}
