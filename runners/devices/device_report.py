"""Which devices jax has, and which optional packages fail.

Run as python -m runners.devices.device_report.

A process of its own, because a broken driver or package may end it, and because a process that
has looked at a GPU holds most of its memory. It prints one line of JSON.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from runners.devices import absent_accelerators


def devices() -> list[dict[str, Any]]:
  """Platform, kind and memory (bytes; None: it does not say) of each."""
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
  """Module -> what goes wrong when it is imported; one that is not installed is not broken."""
  found = {}
  for name in modules:
    try:
      importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name != name:
        found[name] = f"{type(error).__name__}: {error}"
    except BaseException as error:  # whatever a broken package does
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
