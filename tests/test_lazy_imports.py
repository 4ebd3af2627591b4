"""layers/ and runners/ load without TensorFlow, seqio and TensorBoard, installed or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

TENSORFLOW = ("tensorflow", "tensorflow_datasets", "seqio", "tensorboard")
HEAVY = (*TENSORFLOW, "transformers", "datasets", "wandb")

# Imports module after module and prints which of HEAVY came along, and with which module.
IMPORT_ALL = """
import importlib, json, sys
modules, heavy = json.loads(sys.argv[1])
culprits = {}
for module in modules:
  importlib.import_module(module)
  for name in heavy:
    if sys.modules.get(name) is not None:
      culprits.setdefault(name, module)
print(json.dumps(culprits))
"""

# As on a machine where HEAVY is not installed.
HIDE = "import sys, json; sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])[1]))\n"


def modules_of(*folders: str) -> list[str]:
  paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
  return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


def heavy_imports(code: str) -> dict[str, str]:
  result = subprocess.run(
    [sys.executable, "-c", code, json.dumps([modules_of("layers", "runners"), HEAVY])],
    cwd=ROOT,
    env=dict(os.environ),
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


def test_layers_and_runners_do_not_load_tensorflow():
  assert heavy_imports(IMPORT_ALL) == {}


def test_layers_and_runners_load_where_tensorflow_is_not_installed():
  assert heavy_imports(HIDE + IMPORT_ALL) == {}
