"""Every value can say who set it and what it was before: default, code line, override."""

import inspect

import pytest

from experiments.override_arguments import Override
from experiments.provenance import explain
from experiments.resolution import resolve
from layers.errors import UserError
from runners.configs.files import save
from tests.experiments import toy_family


def why(path: str, *arguments: str):
  overrides = [Override(*argument.split("=", 1)) for argument in arguments]
  return explain(resolve("toy_family.Nano", overrides), path)


def line_of(code: str) -> int:
  lines = inspect.getsource(toy_family).splitlines()
  return next(number for number, line in enumerate(lines, 1) if code in line)


def test_a_default_names_its_class():
  explanation = why("model.num_layers")
  assert explanation.origins == (("2", "the default of Model"),)
  assert explanation.lines() == ["model.num_layers = 2", "  set by the default of Model"]


def test_code_is_named_by_class_and_line_oldest_first():
  origins = why("model.width").origins
  file = "tests/experiments/toy_family.py"
  assert origins == (
    ("8", f"toy_family.Toy ({file}:{line_of('return fdl.Config(Model')})"),
    ("16", f"toy_family.Nano ({file}:{line_of('model.width = 16')})"),
  )


@pytest.mark.parametrize(
  "experiment, path, owner, code",
  [
    ("toy_family.Patient", "callbacks[0].patience", "Patient", "patience, num_steps = 7, 70"),
    ("toy_family.Patient", "num_steps", "Patient", "patience, num_steps = 7, 70"),
    ("toy_family.Nano", "callbacks[0].patience", "Toy", "patience: int = 3"),
    ("toy_family.Stubborn", "num_steps", "Stubborn", "config.num_steps = 10"),
  ],
)
def test_an_attribute_that_a_family_passes_on_is_named_where_it_is_given(
  experiment, path, owner, code
):
  who = explain(resolve(experiment), path).origins[-1].who
  assert who == f"toy_family.{owner} (tests/experiments/toy_family.py:{line_of(code)})"


def test_overrides_follow_in_order_with_the_argument_that_made_them(tmp_path):
  file = tmp_path / "wide.yaml"
  file.write_text("set: {model.width: 4}")
  who = [
    origin.who
    for origin in why(
      "model.width",
      "fiddler=toy_tiny(width=3)",
      f"config={file}",
      "set=model.width=4",
      "set=num_steps=1",
    ).origins
  ]
  assert who[2:] == [
    "--fiddler=toy_tiny(width=3)",
    f"{file}: set model.width",
    "--set=model.width=4",
  ]


def test_a_value_inside_a_list_or_dict_has_its_own_history():
  explanation = why("callbacks[-1].patience", "set=callbacks[0].patience=5")
  assert explanation.path == "callbacks[0].patience"
  assert [origin.value for origin in explanation.origins] == ["1", "3", "5"]
  assert why("eval_data[validation].num_batches").origins[-1].value == "5"


def test_a_field_of_a_replaced_node_names_what_replaced_it():
  argument = "set=optimizer=@toy_sgdm(learning_rate=2)"
  assert why("optimizer.learning_rate", argument).origins[-1] == ("2.0", f"--{argument}")
  momentum = why("optimizer.momentum", argument).origins[-1]
  assert momentum.value == "0.9" and momentum.who == f"--{argument}, which set optimizer"
  stop = why("optimizer.patience", "set=optimizer=@toy_stop()")
  assert stop.value == "1" and "--set=optimizer=@toy_stop()" in stop.origins[-1].who


def test_unset_is_an_origin_too():
  assert why("num_steps", "unset=num_steps").origins[-1] == ("None", "--unset=num_steps")


def test_a_shared_node_says_where_else_it_is():
  resolved = resolve("toy_family.Nano", [])
  resolved.config.model.anything = resolved.config.model.norm
  explanation = explain(resolved, "model.norm.epsilon")
  assert explanation.also_at == ("model.anything.epsilon",)
  assert "shared: the same object as model.anything.epsilon" in explanation.lines()[-1]


def test_a_run_is_explained_by_its_file(tmp_path):
  save(resolve("toy_family.Nano", []).config, "toy_family.Nano", tmp_path)
  file = tmp_path / "config.json"
  explanation = explain(resolve(None, [Override("config", str(file))]), "model.width")
  assert explanation.origins == (("16", str(file)),)


def test_an_unknown_path_is_told_the_nearest():
  with pytest.raises(UserError, match="did you mean model.width"):
    why("model.wdith")


def test_evaluation_data_say_what_they_take_from_the_training_data():
  overrides = [Override("set", "train_data.path=somewhere.txt")]
  resolved = resolve("gpt2.ShakespeareCharCpu", overrides)
  explanation = explain(resolved, "eval_data['validation'].path")
  assert explanation.value == "'somewhere.txt'"
  assert explanation.origins[-1].who == "train_data.path, which evaluation data take over"
