"""Prints one line of JSON: the devices that jax has, and the optional packages that fail.

Run as python -m runners.devices.device_report.

It is a separate process because a broken driver or package may kill it, and because a process
that has queried a GPU keeps most of its memory.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from runners.devices import absent_accelerators


def devices() -> list[dict[str, Any]]:
  """Platform, kind and memory (bytes, or None if unknown) of each device."""
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  import jax

  return [
    {
      "platform": device.platform,
      "kind": device.device_kind,
      "memory": (device.memory_stats() or {}).get("bytes_limit"),
    }
    for device in jax.devices()
  ]


def broken(modules: Sequence[str]) -> dict[str, str]:
  """Module -> the error when it is imported. A module that is not installed is not broken."""
  found = {}
  for name in modules:
    try:
      importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name != name:
        found[name] = f"{type(error).__name__}: {error}"
    except BaseException as error:  # a broken package may even exit
      found[name] = " ".join(f"{type(error).__name__}: {error}".split())
  return found


def main() -> int:
  """Reports the devices, then imports the modules that the arguments name."""
  absent_accelerators.leave_out()
  report: dict[str, Any] = {"devices": [], "error": None}
  try:
    report["devices"] = devices()
  except Exception as error:
    report["error"] = " ".join(f"{type(error).__name__}: {error}".split())
  print(json.dumps({**report, "broken": broken(sys.argv[1:])}), flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
