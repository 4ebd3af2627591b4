"""The suite runs on CPUs, leaves the user's caches alone, and can simulate many devices."""

import collections
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):
  import triton  # noqa: F401  comes with torch; loaded after TensorFlow it kills the process

from input_pipelines import allowed_packages
from layers import notices
from runners.processes.simulated_devices import give_threads
from tests import machine_code, warm_processes

ROOT = Path(__file__).parent.parent

# Before the first test module imports jax or TensorFlow; subprocesses inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("STRATA_CACHE", str(ROOT / ".pytest_cache" / "strata"))
os.environ["PYTHONPATH"] = os.pathsep.join(
  filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
)

# A signal that nohup or a shell had ignored would be ignored by what tests start, too.
for _ignored in (signal.SIGINT, signal.SIGHUP):
  if signal.getsignal(_ignored) == signal.SIG_IGN:
    signal.signal(_ignored, signal.SIG_DFL)

machine_code.keep_programs(os.environ["STRATA_CACHE"])
PROGRAMS = os.environ["JAX_COMPILATION_CACHE_DIR"]

allowed_packages.allow("tests")  # whose classes the configs of tests are made of


def pytest_addoption(parser):
  parser.addoption(
    "--update-golden", action="store_true", help="write golden files instead of comparing"
  )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
  """Files with most slow tests come first: the last ones to run should leave no worker idle."""
  slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
  items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """Before the fixtures of a test, which may compile too."""
  plain = item.get_closest_marker("plain") and not item.get_closest_marker("bits")
  machine_code.choose(bool(plain))


@pytest.fixture
def update_golden(request) -> bool:
  """Whether to rewrite golden files: review the diff before committing it."""
  return request.config.getoption("--update-golden")


@pytest.fixture(autouse=True)
def notes(monkeypatch):
  """The notes and remarks of a test (layers/notices.py), which starts as if none were said."""
  monkeypatch.setattr(notices, "_said", set())
  with notices.heard() as heard:
    yield heard


@pytest.fixture
def run_with_devices():
  """Runs Python code in a process of its own that sees `num_devices` CPU devices.

  The number of devices is fixed when jax first asks for them, hence the process. The last line
  that the code prints is read as JSON and returned:

      assert run_with_devices(8, "import jax, json; print(json.dumps(jax.device_count()))") == 8

  No program may have made the compiler gather an array whole to lay it out anew: on a pod that
  would be the step's largest transfer. The compiler says so only when it compiles, so that the
  programs of these processes are kept apart, and thrown away when one was such.
  """
  kept = f"{PROGRAMS}/simulated_devices"

  def run(num_devices: int, code: str, *, timeout_s: float = 600):
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    environment = {**os.environ, "XLA_FLAGS": devices}
    environment.pop("NPROC", None)
    if environment.get("JAX_COMPILATION_CACHE_DIR") == PROGRAMS:  # not a place of its own
      environment["JAX_COMPILATION_CACHE_DIR"] = kept
    give_threads(environment)
    result = warm_processes.run(code, environment, ROOT, timeout_s)
    if "Involuntary full rematerialization" in result.stderr:
      shutil.rmtree(kept, ignore_errors=True)
      pytest.fail(result.stderr)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return json.loads(result.stdout.strip().splitlines()[-1])

  return run
