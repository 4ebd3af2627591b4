"""The machine that a run uses: cores, memory, disks, folders, GPUs."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from input_pipelines.token_store import known_cache_dir
from runners.devices import absent_accelerators
from runners.devices.installation import Finding

_GIB = 2**30
_LITTLE_ROOM = 5 * _GIB  # a few checkpoints of a small model
_PROGRAMS = "xla"  # beside the token stores (runners/processes/compilation_cache.py)


def cores() -> int:
  """The number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def memory() -> int | None:
  """Bytes of memory of the machine, or of its container if less; None if unknown."""
  if not hasattr(os, "sysconf"):
    return None
  there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  try:
    limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
  except OSError:  # no container, or one without cgroup v2
    return there
  return min(there, int(limit)) if limit.isdigit() else there


def has_gpu() -> bool:
  """Whether the system has an NVIDIA GPU."""
  return absent_accelerators.has_nvidia_gpu() or shutil.which("nvidia-smi") is not None


def folders() -> tuple[dict[str, Any], list[Finding]]:
  """Facts about the cache, home and working folder (sizes in bytes), and problems found."""
  found: list[Finding] = []
  cache = known_cache_dir()
  facts: dict[str, Any] = {"cache": cache, "home": _home(), "here": None}
  if facts["home"] is None:
    found.append(Finding("this user has no home directory", "export STRATA_CACHE=DIR"))
  if cache is not None:
    stores, programs = _size(Path(cache), but=_PROGRAMS), _size(Path(cache, _PROGRAMS))
    facts |= {"token_stores": stores, "compiled_programs": programs, "free": _free(Path(cache))}
    if not _is_writable(Path(cache)):
      found.append(Finding(f"the cache {cache} cannot be written", "export STRATA_CACHE=DIR"))
    elif facts["free"] is not None and facts["free"] < _LITTLE_ROOM:
      what = f"only {facts['free'] / _GIB:.1f} GiB are free for the cache in {cache}"
      found.append(Finding(what, "make room, or export STRATA_CACHE=DIR on another disk"))
  here = _here()
  facts |= {"here": here and str(here), "free_here": here and _free(here)}
  if here is None or not _is_writable(here):
    what = f"this folder cannot be written{f' ({here})' if here else ''}"
    found.append(Finding(what, "train with --workdir=DIR"))
  return facts, found


def _home() -> str | None:
  home = os.path.expanduser("~")
  return home if home != "~" and os.path.isdir(home) else None


def _here() -> Path | None:
  try:
    return Path.cwd()
  except OSError:  # it has been removed
    return None


def _is_writable(folder: Path) -> bool:
  """Whether a file can be created in the folder, or in its nearest existing parent."""
  try:
    with tempfile.TemporaryFile(dir=_existing(folder)):
      return True
  except OSError:
    return False


def _free(folder: Path) -> int | None:
  try:
    return shutil.disk_usage(_existing(folder)).free
  except OSError:
    return None


def _existing(folder: Path) -> Path:
  """The folder, or its nearest existing parent."""
  return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _size(folder: Path, but: str | None = None) -> int:
  """Bytes of the files below a folder, without those in its subfolder `but`."""
  total = 0
  for path, names, files in os.walk(folder):
    if Path(path) == folder and but in names:
      names.remove(but)
    for name in files:
      try:
        total += os.lstat(os.path.join(path, name)).st_size
      except OSError:  # removed meanwhile
        continue
  return total
