"""What files and tests cost in seconds of CPU: `python -m pytest -p tests.cpu_seconds`.

The user's and the system's time of this process and of those that the tests began and waited
for: much steadier than time on the clock when the machine does something else as well.
"""

import collections
import resource

import pytest

from tests import warm_processes

SHOWN = 30
LEAST = 0.5

_seconds: collections.Counter[str] = collections.Counter()  # of each file and of each test


def _so_far() -> float:
  usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
  return own + warm_processes.seconds["of CPU"]


_before = _so_far()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  """Notes what was used since the report before: of a setup, a test or a teardown."""
  global _before
  report = yield
  now = _so_far()
  report.cpu_seconds, _before = now - _before, now
  return report


def pytest_runtest_logreport(report):
  used = getattr(report, "cpu_seconds", 0.0)
  _seconds[report.nodeid] += used
  _seconds[report.nodeid.split("::")[0]] += used


def pytest_terminal_summary(terminalreporter):
  files = {name: used for name, used in _seconds.items() if "::" not in name}
  terminalreporter.section(f"{sum(files.values()):.0f} CPU seconds")
  for kind in (files, {name: used for name, used in _seconds.items() if "::" in name}):
    for name, used in collections.Counter(kind).most_common(SHOWN):
      if used < LEAST:
        break
      terminalreporter.write_line(f"{used:8.1f}  {name}")
    terminalreporter.write_line("")
