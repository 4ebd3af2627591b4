"""Programs that many tests compile alike are compiled once and kept beside the test stores."""

import os

import pytest

from runners.processes import compilation_cache


@pytest.fixture(scope="session", autouse=True)
def compiled_programs():
  compilation_cache.enable(os.environ["STRATA_CACHE"])
