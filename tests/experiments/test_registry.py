"""A name finds its class by importing one module; a wrong name is told the nearest ones."""

import importlib
import importlib.metadata
import subprocess
import sys
import textwrap

import pytest

from experiments import registry
from experiments.registry import Experiment
from layers.errors import UserError
from tests.experiments import toy_family


@pytest.fixture(autouse=True)
def own_registry():
  """What a test registers is gone after it; families stay, as they stay imported."""
  before = set(registry._entries)
  yield
  for name in set(registry._entries) - before:
    if not registry._entries[name].experiment.__module__.startswith("experiments."):
      del registry._entries[name]


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Writes an importable module and removes it from sys.modules afterwards."""
  monkeypatch.syspath_prepend(str(tmp_path))

  def write(name: str, code: str) -> str:
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name

  return write


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Writes `<name>/experiments.py`; gives the module's name."""
  monkeypatch.syspath_prepend(str(tmp_path))

  def write(name: str, code: str) -> str:
    (tmp_path / name).mkdir()
    (tmp_path / name / "experiments.py").write_text(textwrap.dedent(code))
    importlib.invalidate_caches()
    for imported in (name, f"{name}.experiments"):
      monkeypatch.delitem(sys.modules, imported, raising=False)
    return f"{name}.experiments"

  return write


EXPERIMENT = """
  from experiments.registry import Experiment, register

  @register
  class Nano(Experiment):
    def config(self): ...
"""


def test_a_name_is_module_and_class_with_summary_and_tags():
  entry = registry.find("toy_family.Nano")
  assert entry.experiment is toy_family.Nano
  assert entry.listing.summary == "Nano: the smallest. Loss 0." and entry.tags == (
    "demo",
    "cpu",
  )


def test_a_family_class_that_is_not_decorated_is_no_experiment():
  with pytest.raises(UserError, match="no experiment 'toy_family.Toy'"):
    registry.find("toy_family.Toy")


@pytest.mark.parametrize("pattern", ["toy_family", "NANO", "toy_*.Nano", "demo", ""])
def test_a_pattern_is_part_of_a_name_a_glob_or_a_tag(pattern):
  assert registry.find("toy_family.Nano").listing.matches(pattern)


def test_every_call_gives_a_fresh_config():
  experiment = registry.find("toy_family.Nano").experiment()
  first, second = experiment.config(), experiment.config()
  first.model.width = 1
  assert second.model.width == 16


def test_an_unknown_name_is_told_the_nearest():
  with pytest.raises(UserError, match=r"no experiment 'toy_family.Nan'.*toy_family.Nano"):
    registry.find("toy_family.Nan")
  with pytest.raises(UserError, match=r"did you mean .*toy_family.Nano"):
    registry.find("toy_famly.Nano")


def test_two_classes_of_one_name_are_an_error(module):
  name = module("twice", EXPERIMENT + textwrap.indent(EXPERIMENT, ""))
  with pytest.raises(UserError, match="two experiments are called 'twice.Nano'"):
    importlib.import_module(name)


def test_a_module_of_the_same_last_name_elsewhere_is_a_duplicate(module):
  module("same", EXPERIMENT)
  importlib.import_module("same")
  impostor = type(
    "Nano", (Experiment,), {"__module__": "other.same", "config": lambda self: None}
  )
  with pytest.raises(UserError, match=r"same\.Nano and other\.same\.Nano"):
    registry.register(impostor)


def test_a_reload_is_not_a_duplicate(module):
  loaded = importlib.import_module(module("reloaded", EXPERIMENT))
  importlib.reload(loaded)
  del sys.modules["reloaded"]
  again = importlib.import_module("reloaded")
  assert registry.find("reloaded.Nano").experiment is again.Nano


def test_only_an_experiment_can_be_registered():
  with pytest.raises(TypeError, match="no subclass of Experiment"):
    registry.register(type("Plain", (), {}))  # type: ignore[arg-type]


def entry_points(monkeypatch, **points: str):
  found = [
    importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINT_GROUP)
    for name, value in points.items()
  ]
  monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)


def test_an_entry_point_is_imported_only_for_its_own_names(module, monkeypatch):
  name = module("elsewhere", EXPERIMENT)
  entry_points(monkeypatch, lab=name)
  registry.find("toy_family.Nano")
  assert name not in sys.modules
  assert registry.find("elsewhere.Nano").name == "elsewhere.Nano"
  assert "elsewhere.Nano" in [entry.name for entry in registry.all_experiments()]


def test_a_module_called_experiments_goes_by_the_name_of_its_package(package, monkeypatch):
  entry_points(monkeypatch, anything=package("my_lab", EXPERIMENT))
  assert registry.find("my_lab.Nano").experiment.__module__ == "my_lab.experiments"


def test_a_name_of_no_known_family_is_told_how_to_load_one():
  with pytest.raises(UserError, match=r"no experiment 'my_lab.Nano'.*add --load=MODULE\)$"):
    registry.find("my_lab.Nano")
  with pytest.raises(UserError) as error:
    registry.find("toy_family.Nan")
  assert "--load" not in str(error.value)


def test_a_broken_entry_point_is_named_and_hides_no_other(module, monkeypatch, notes):
  broken = module("broken_lab", "raise RuntimeError('half written')")
  entry_points(monkeypatch, one=broken, other=module("sound_lab", EXPERIMENT))
  names = [entry.name for entry in registry.all_experiments()]
  assert "sound_lab.Nano" in names and "gpt2.Nano" in names
  assert "one (broken_lab) are left out: RuntimeError: half written" in notes[0]
  with pytest.raises(RuntimeError, match="half written"):
    registry.find("broken_lab.Nano")


def test_an_import_error_inside_a_family_surfaces_as_itself(module, monkeypatch):
  name = module("broken", "import a_package_that_is_not_there")
  entry_points(monkeypatch, lab=name)
  with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
    registry.find("broken.Nano")


def test_families_are_known_without_importing_them():
  code = """
    import sys
    from experiments import registry
    assert "gpt2.Nano" in registry.known_names()
    assert "experiments.gpt2" not in sys.modules
    registry.find("gpt2.Nano")
    assert "experiments.gpt2" in sys.modules
  """
  subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_list_that_is_read_from_source_is_the_one_that_imports_give():
  imported = {entry.name: entry.listing for entry in registry.all_experiments()}
  assert {listing.name: listing for listing in registry.catalogue()} == imported
