"""Start-up notices of native code are dropped, and nothing else is."""

import subprocess
import sys


def test_notices_are_dropped_and_everything_else_is_passed_on():
  code = (
    "import os, sys\n"
    "from input_pipelines.native_stderr import without_startup_notices\n"
    "with without_startup_notices():\n"
    "  os.write(2, b'WARNING: All log messages before absl::InitializeLog() is called\\n')\n"
    "  os.write(2, b'E0000 00:00:1.2 77 cuda_platform.cc:52] failed call to cuInit\\n')\n"
    "  os.write(2, b'segfault imminent\\n')\n"
    "  print('from python', file=sys.stderr)\n"
    "print('after', file=sys.stderr)\n"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert result.returncode == 0
  assert result.stderr.splitlines() == ["from python", "segfault imminent", "after"]


def test_an_error_inside_reaches_the_caller_with_what_was_held_back():
  code = (
    "import os\n"
    "from input_pipelines.native_stderr import without_startup_notices\n"
    "with without_startup_notices():\n"
    "  os.write(2, b'a reason\\n')\n"
    "  raise ImportError('no tensorflow')\n"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert result.returncode == 1
  assert "a reason" in result.stderr and "no tensorflow" in result.stderr
