"""layers/ and runners/ load without TensorFlow, seqio and TensorBoard, installed or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What `list` and a misspelt experiment need none of, and what no look at a config needs.
ARRAYS = ("jax", "flax", "optax", "fiddle", "numpy")
UNUSED = ("orbax.checkpoint", "tensorstore", "grain", "rich.live", "IPython", "scipy.stats")

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


COMMAND = """
import contextlib, io, json, sys
from experiments.command_line import main
arguments, heavy = json.loads(sys.argv[1])
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
  code = main(["runner", *arguments])
print(json.dumps([code, [name for name in heavy if name in sys.modules]]))
"""


def loaded_by(*arguments: str, heavy: tuple[str, ...]) -> tuple[int, list[str]]:
  """The exit code of a command and which of `heavy` it loaded, in a process of its own."""
  result = subprocess.run(
    [sys.executable, "-c", COMMAND, json.dumps([arguments, heavy])],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  code, found = json.loads(result.stdout)
  return code, found


@pytest.mark.parametrize(
  "arguments, code",
  [
    (("list",), 0),
    (("list", "cpu"), 0),
    (("list", "nothing"), 2),
    (("show", "--exp=gpt2.Nan"), 2),
    (("train", "gpt2.Nano"), 2),
    (("ckpt", "nothing", "here"), 2),
    (("help",), 0),
  ],
)
def test_what_looks_at_no_config_loads_no_jax(arguments, code):
  assert loaded_by(*arguments, heavy=(*HEAVY, *ARRAYS)) == (code, [])


@pytest.mark.parametrize(
  "arguments, code",
  [
    (("show", "--exp=gpt2.Nano"), 0),
    (("why", "num_steps", "--exp=gpt2.Nano"), 0),
    (("diff", "gpt2.Nano", "gpt2.Small"), 0),
    (("--exp=gpt2.Nano", "--set=model.num_layer=3"), 2),
  ],
)
def test_what_looks_at_a_config_loads_nothing_that_runs_it(arguments, code):
  assert loaded_by(*arguments, heavy=(*HEAVY, *UNUSED)) == (code, [])
