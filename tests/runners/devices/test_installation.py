"""What is installed is told from metadata alone, requirements and optional parts included."""

import importlib.metadata
import subprocess
import sys

import pytest

from runners.devices import installation

REQUIRES = {
  "strata": [
    "jax>=0.10,<0.13",
    "tensorflow>=2.21",
    "old<1; python_version < '3'",
    'tokenizers>=0.23; extra == "hf"',
    'strata[hf]; extra == "parity"',
    'jax[cuda13]; extra == "gpu"',
  ],
  "jax": ["jaxlib>=0.13", 'jax-cuda13-plugin==0.13; extra == "cuda13"'],
}
INSTALLED = {"strata": "0.1", "jax": "0.13", "jaxlib": "0.12", "tokenizers": "0.23.1"}


@pytest.fixture
def packages(monkeypatch):
  """These requirements, and these versions."""
  installed = dict(INSTALLED)
  monkeypatch.setattr(installation, "version", installed.get)
  monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES.get(name))
  monkeypatch.setattr(installation, "_declared_extras", lambda: ["gpu", "hf", "parity"])
  return installed


def test_an_optional_part_is_there_when_all_of_it_is(packages):
  plugin = {"gpu": ["jax-cuda13-plugin==0.13"], "hf": [], "parity": []}
  assert installation.extras() == plugin
  del packages["tokenizers"]
  missing = ["tokenizers>=0.23"]
  assert installation.extras() == {**plugin, "hf": missing, "parity": missing}


def test_what_is_missing_or_has_another_version_says_what_to_install(packages):
  found = {one.what: one.cure for one in installation.findings()}
  assert found == {
    "jax<0.13,>=0.10 is needed (0.13 is there)": "pip install 'jax<0.13,>=0.10'",
    "tensorflow>=2.21 is missing": "pip install 'tensorflow>=2.21'",
    "jaxlib>=0.13 is needed (0.12 is there)": "pip install 'jaxlib>=0.13'",
  }


def test_a_plugin_of_another_version_is_found(packages):
  (found,) = installation.mismatches({"jaxlib": "0.12", "jax-cuda12-plugin": "0.11"})
  assert found.what == "jax-cuda12-plugin 0.11 beside jaxlib 0.12"
  assert installation.mismatches({"jaxlib": "0.12", "jax-cuda12-plugin": "0.12"}) == []


def test_nothing_is_imported_to_tell_versions():
  program = """
import sys
from runners.devices import installation
assert installation.versions()["tensorflow"] and installation.versions()["jax"]
installation.findings()
print(sorted({"tensorflow", "jax", "torch"} & set(sys.modules)))
"""
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert result.stdout == "[]\n", result.stderr
