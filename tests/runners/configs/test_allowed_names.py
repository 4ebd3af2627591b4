"""A config leads to no code but Strata's, its libraries' and what the user has allowed."""

import json
import sys

import fiddle as fdl
import jax
import optax
import pytest

from experiments import registry
from experiments.command_line import main
from experiments.fiddlers import apply_fiddler
from input_pipelines import allowed_packages
from layers.errors import UserError
from runners.configs import allowed_names, fiddle_json
from runners.configs import files as config_files
from runners.configs.allowed_names import IN_TREE, find
from runners.trainer import Trainer
from tasks.registered_task import RegisteredTask
from tests.canary import CALLS, NAMES

TEXT = config_files.to_json(registry.find("gpt2.Nano").experiment().config(), "gpt2.Nano")
HARMLESS = ("optax:adam", "jax.nn:relu", "jax.nn:tanh", "jax.nn.initializers:normal")
STRANGER = """
import subprocess
from runners.configs.import_by_name import import_module
from runners.callbacks import Callback
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
class Layer(Callback):
  pass
def change(config):
  config.seed = 5
"""


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
  monkeypatch.setattr(allowed_packages, "_allowed", set())
  monkeypatch.setattr(allowed_names, "_admitted", set())
  yield
  assert not CALLS


@pytest.fixture
def stranger(tmp_path, monkeypatch):
  """A package that notes that it was imported, in the current folder and on the path."""
  (tmp_path / "stranger_of_this_test.py").write_text(STRANGER)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield tmp_path / "imported"
  sys.modules.pop("stranger_of_this_test", None)


PYREF = {"type": "pyref", "module": "builtins", "name": "tuple"}
EMPTY = {"type": PYREF, "items": [], "metadata": None}


def _of_fiddle(name: str) -> dict[str, str]:
  return {"type": "pyref", "module": "fiddle._src.config", "name": name}


def naming(full_name: str, kind: str = "value") -> str:
  """A config.json that names something: as a value, a target, a kind of object or its maker."""
  module, _, name = full_name.partition(":")
  pyref = {"type": "pyref", "module": module, "name": name}
  arguments = [["", {"type": "leaf", "value": "touch called", "paths": []}]]
  metadata = {
    "type": _of_fiddle("BuildableTraverserMetadata"),
    "items": [["", pyref], ["", EMPTY]],
    "metadata": _of_fiddle("BuildableTraverserMetadata"),
  }
  node = {
    "value": pyref,
    "target": {"type": _of_fiddle("Config"), "items": [], "metadata": metadata},
    "kind": {"type": pyref, "items": arguments, "metadata": None},
    "maker": {**metadata, "items": arguments, "metadata": pyref},
  }[kind]
  stored = json.loads(TEXT)
  objects = stored["config"]["objects"]
  root = objects[stored["config"]["root"]["key"]]
  names = objects[objects[root["metadata"]["key"]]["items"][1][1]["key"]]["items"]
  place = [item[1] for item in names].index("callbacks")
  callbacks = objects[root["items"][place][1]["key"]]
  callbacks["items"].append(["", node])
  return json.dumps(stored)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused_in_a_line(name):
  with pytest.raises(UserError) as caught:
    find(name)
  assert name.partition(":")[0] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [optax.adamw, optax.contrib.muon])
def test_what_a_library_keeps_in_a_private_module_is_read_back_by_another_process(
  target, monkeypatch
):
  config = registry.find("gpt2.Nano").experiment().config()
  schedule = fdl.Config(optax.cosine_decay_schedule, init_value=0.1, decay_steps=9)
  config.optimizer = fdl.Config(target, learning_rate=schedule)
  text = config_files.to_json(config, "gpt2.Nano")
  assert "._" in text
  monkeypatch.setattr(allowed_names, "_admitted", set())  # as another process begins
  assert config_files.from_json(text, "config.json").config == config


@pytest.mark.parametrize("kind", ["value", "target", "kind", "maker"])
@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "runners.training:train"])
def test_a_config_that_names_it_is_refused_in_every_command(name, kind, tmp_path, capsys):
  run = tmp_path / "run"
  run.mkdir()
  (run / "config.json").write_text(naming(name, kind))
  for command in (
    ("show", f"--config={run}"),
    ("diff", str(run), "gpt2.Nano"),
    ("why", "seed", f"--config={run / 'config.json'}"),
    ("eval", f"--workdir={run}"),
    ("generate", f"--workdir={run}", "--prompt=x"),
    ("export", f"--workdir={run}", f"--to={tmp_path / 'out'}"),
    ("train", "--exp=gpt2.Nano", f"--workdir={run}"),
  ):
    assert main(["runner", *command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"runner: error: {run}") and name in line and len(line) < 1000
  assert not (tmp_path / "out").exists()


def test_a_package_is_not_even_imported_before_it_is_allowed(stranger, capsys):
  text = naming("stranger_of_this_test:Layer", "target")
  with pytest.raises(UserError, match="if you trust it, add --load=stranger_of_this_test$"):
    config_files.from_json(text, "config.json")
  arguments = ["runner", "show", "--exp=gpt2.Nano"]
  layer = "--set=callbacks=[@stranger_of_this_test:Layer()]"
  assert main([*arguments, layer]) == 2
  assert main([*arguments, "--fiddler=stranger_of_this_test:change"]) == 2
  with pytest.raises(UserError, match="add --load=stranger_of_this_test"):
    RegisteredTask(task="x", module="stranger_of_this_test").vocabulary()
  assert capsys.readouterr().err.count("--load=stranger_of_this_test") == 2
  assert not stranger.exists() and "stranger_of_this_test" not in sys.modules

  assert main([*arguments, "--load=stranger_of_this_test", layer]) == 0
  assert "callbacks[0] = @stranger_of_this_test:Layer()" in capsys.readouterr().out
  added = config_files.from_json(text, "config.json").config.callbacks[-1]
  assert fdl.get_callable(added).__name__ == "Layer"


def test_an_allowed_package_leads_to_what_is_defined_in_it_and_not_to_what_it_imports(stranger):
  allowed_packages.allow("stranger_of_this_test")
  config = fdl.Config(Trainer)
  assert apply_fiddler(config, "stranger_of_this_test:change").seed == 5
  assert find("stranger_of_this_test:Layer").__name__ == "Layer"
  for name in (
    "import_module",
    "subprocess",
    "subprocess.run",
    "pathlib.Path",
    "Layer.__init__",
  ):
    with pytest.raises(UserError):
      find(f"stranger_of_this_test:{name}")


def test_an_installed_entry_point_allows_its_package(stranger, monkeypatch):
  monkeypatch.setattr(allowed_packages, "_installed", lambda: {"stranger_of_this_test"})
  assert find("stranger_of_this_test:Layer").__name__ == "Layer"


@pytest.mark.parametrize("module", ["os", "subprocess.x", "../x", "a b", "", "x.__main__"])
def test_load_takes_packages_of_the_users_own(module, capsys):
  assert main(["runner", "show", "--exp=gpt2.Nano", f"--load={module}"]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_a_config_needs_is_open_in_a_process_that_has_allowed_nothing():
  for name in (*IN_TREE.values(), *HARMLESS):
    assert callable(find(name))
  assert find("jax.nn:relu") is jax.nn.relu and find("optax:adam") is optax.adam
  ours = (e for e in registry.all_experiments() if e.experiment.__module__.startswith("exp"))
  for entry in ours:
    stored = json.loads(config_files.to_json(entry.experiment().config(), entry.name))
    allowed_names._admitted.clear()
    assert not allowed_names.refused(fiddle_json.names_in(stored))


@pytest.mark.parametrize("exp", ["../x", "a/b", "", "/x", ".", "x" * 999, "a..b", "é\n"])
def test_a_name_that_would_lead_a_run_into_another_folder_is_refused(exp):
  text = json.dumps({**json.loads(TEXT), "exp": exp})
  with pytest.raises(UserError, match="no name of an experiment"):
    config_files.from_json(text, "config.json")


def test_objects_that_stand_for_too_many_values_or_hold_themselves_are_refused():
  stored = json.loads(TEXT)
  tuples = {"type": "pyref", "module": "builtins", "name": "tuple"}
  objects = stored["config"]["objects"]
  for level in range(9):
    below = {"type": "ref", "key": f"bomb_{level - 1}"} if level else 1
    objects[f"bomb_{level}"] = {"type": tuples, "items": [["", below]] * 10, "metadata": None}
  root = next(key for key in objects if key.startswith("trainer"))
  objects[root]["items"][0][1] = {"type": "ref", "key": "bomb_8"}
  with pytest.raises(UserError, match="more than 100,000 values"):
    config_files.from_json(json.dumps(stored), "config.json")
  objects["bomb_0"]["items"] = [["", {"type": "ref", "key": "bomb_8"}]]
  with pytest.raises(UserError, match="hold themselves"):
    config_files.from_json(json.dumps(stored), "config.json")


@pytest.mark.parametrize(
  "field, value", [("batch_size", "x"), ("train_data", None), ("eval_data", 3), ("model", True)]
)
def test_a_value_of_another_type_than_the_fields_is_refused_with_its_path(field, value):
  config = registry.find("gpt2.Nano").experiment().config()
  setattr(config, field, value)
  with pytest.raises(UserError, match=f"^config.json: {field} cannot be "):
    config_files.from_json(config_files.to_json(config, "gpt2.Nano"), "config.json")
