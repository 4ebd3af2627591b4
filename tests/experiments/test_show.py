"""What is shown is the config: each form has all of it, and the Python builds it again."""

import fiddle as fdl
import pytest

from experiments.diff import diff
from experiments.override_arguments import Override
from experiments.python_code import to_python
from experiments.resolution import resolve
from experiments.show import show
from layers.errors import UserError
from runners.configs.files import from_json, save
from tests.experiments import toy_family


def run_python(code: str) -> fdl.Config:
  namespace: dict = {}
  exec(code, namespace)
  return namespace["config"]()


@pytest.mark.parametrize("name", ["toy_family.Nano", "gpt2.Nano", "gpt2.ShakespeareCharCpu"])
def test_json_and_python_build_the_config_that_was_shown(name):
  resolved = resolve(name, [Override("set", "num_steps=7")])
  assert from_json(show(resolved, "json"), "x")[:2] == (name, resolved.config)
  code = show(resolved, "python")
  assert run_python(code) == resolved.config
  assert max(map(len, code.splitlines())) <= 96


def test_python_keeps_a_shared_node_one_node():
  config = toy_family.Toy().config()
  config.model.anything = [config.model.norm, {"a": (1,)}, toy_family.Policy.FULL, len]
  again = run_python(to_python(config))
  assert again == config and again.model.anything[0] is again.model.norm


def test_python_refuses_what_cannot_be_imported():
  config = toy_family.Toy().config()
  config.model.anything = lambda: 0
  with pytest.raises(UserError, match="cannot be imported"):
    to_python(config)


def test_flat_shows_evaluation_data_as_they_will_be():
  resolved = resolve("gpt2.ShakespeareCharCpu", [Override("set", "train_data.path=/x")])
  assert "eval_data['validation'].path = '/x'\n" in show(resolved, "flat")


def test_an_unknown_format_is_told_the_known_ones():
  with pytest.raises(UserError, match="did you mean json"):
    show(resolve("toy_family.Nano"), "jsn")


def test_diff_compares_experiments_runs_and_files(tmp_path):
  resolved = resolve("toy_family.Nano", [Override("set", "num_steps=7")])
  save(resolved.config, resolved.exp, tmp_path)
  overrides = tmp_path / "wide.yaml"
  overrides.write_text("{exp: toy_family.Nano, set: {mesh.fsdp: 4}}")
  assert diff("toy_family.Large", "toy_family.Nano") == ["model.width: 8 -> 16"]
  for run in (tmp_path, tmp_path / "config.json"):
    assert diff("toy_family.Nano", str(run)) == ["num_steps: 10 -> 7"]
  assert diff("toy_family.Nano", str(overrides)) == ["mesh.fsdp: 1 -> 4"]
  assert diff("toy_family.Nano", "toy_family.Nano") == []
  with pytest.raises(UserError, match="no run or config file runs/none"):
    diff("toy_family.Nano", "runs/none")
