"""Code in a process with its libraries imported behaves as in one that begins with nothing."""

import os
import signal
import subprocess

import pytest

from tests import warm_processes


def _run(code, folder, timeout_s=60.0, **environment):
  return warm_processes.run(code, {**os.environ, **environment}, folder, timeout_s)


def test_what_is_printed_said_and_returned_comes_back(tmp_path):
  code = "import os, sys; print(os.getcwd()); print('said', file=sys.stderr); sys.exit(3)"
  ended = _run(code, tmp_path)
  assert (ended.stdout, ended.stderr) == (f"{tmp_path.resolve()}\n", "said\n")
  assert ended.returncode == 3
  failed = _run("1 / 0", tmp_path)
  assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr


def test_a_process_chooses_its_devices_and_its_environment(tmp_path):
  code = "import jax, os; print(jax.device_count(), os.environ['SAID'], 'HOME' in os.environ)"
  flags = "--xla_force_host_platform_device_count=3"
  environment = {key: value for key, value in os.environ.items() if key != "HOME"}
  given = {**environment, "XLA_FLAGS": flags, "SAID": "this"}
  assert warm_processes.run(code, given, tmp_path, 60.0).stdout == "3 this False\n"


def test_a_process_leaves_nothing_to_the_next(tmp_path):
  (tmp_path / "here.py").write_text("value = 1")
  assert _run("import here, builtins; builtins.left = here.value", tmp_path).returncode == 0
  code = "import builtins, sys; print(hasattr(builtins, 'left'), 'here' in sys.modules)"
  assert _run(code, tmp_path).stdout == "False False\n"


def test_a_process_may_be_killed_or_take_too_long(tmp_path):
  code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
  assert _run(code, tmp_path).returncode == -signal.SIGKILL
  with pytest.raises(subprocess.TimeoutExpired):
    _run("import time; time.sleep(60)", tmp_path, timeout_s=0.5)


def test_its_seconds_are_counted(tmp_path):
  before = warm_processes.seconds["of CPU"]
  _run("import time\nwhile time.process_time() < 0.2: pass", tmp_path)
  assert warm_processes.seconds["of CPU"] - before >= 0.2
