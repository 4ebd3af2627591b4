"""A sweep is resolved whole before it runs, and none of its values silently wins or loses."""

import subprocess
import sys

import fiddle as fdl
import pytest

from experiments.override_arguments import Override
from experiments.sweep_plan import config_name, plan_sweep
from layers.errors import UserError
from runners.configs.files import from_json, to_json
from tests.experiments import toy_family

TOY = "toy_family.Nano"
MESH = toy_family.Mesh()
MODEL = "@tests.experiments.toy_family:Model"


def plan(*sweeps: str, overrides: tuple[str, ...] = ()):
  """A plan of the toy; overrides are written `set:num_steps=3`."""
  return plan_sweep(TOY, [Override(*o.split(":", 1)) for o in overrides], sweeps)


def names(*sweeps: str, overrides: tuple[str, ...] = ()) -> list[str]:
  return [point.name for point in plan(*sweeps, overrides=overrides).points]


def test_the_points_are_the_product_and_the_last_path_varies_fastest():
  points = plan("num_steps=1,2", "model.width=3,4,5").points
  found = [(point.config.num_steps, point.config.model.width) for point in points]
  assert found == [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)]
  assert points[1].values == {"num_steps": "1", "model.width": "4"}
  assert [str(override) for override in points[1].overrides] == [
    "--set=num_steps=1",
    "--set=model.width=4",
  ]


def test_values_are_whatever_set_takes():
  points = plan("callbacks=[],[@toy_stop(patience=2), @toy_stop]", "policy=NONE,FULL").points
  assert [len(point.config.callbacks) for point in points] == [0, 0, 2, 2]
  assert points[3].config.policy is toy_family.Policy.FULL


def test_names_depend_neither_on_the_order_of_sweeps_nor_on_that_of_overrides():
  one = names("num_steps=1,2", "dropout=0.1", overrides=("set:name=x", "set:shuffle=False"))
  other = names("dropout=0.1", "num_steps=2,1", overrides=("set:shuffle=False", "set:name=x"))
  assert sorted(one) == sorted(other) and len(set(one)) == 2


def test_a_default_that_is_given_makes_no_other_name():
  assert names("num_steps=1") == names("num_steps=1", overrides=("set:shuffle=True",))
  assert names("num_steps=1") != names("num_steps=1", overrides=("set:shuffle=False",))


def test_the_name_is_that_of_the_config_that_is_stored():
  (point,) = plan("num_steps=1").points
  stored = from_json(to_json(point.config, TOY), "config.json")
  assert config_name(stored.config, stored.exp) == point.name


def test_the_name_is_the_same_on_every_machine_and_version_of_python():
  (name,) = names("num_steps=1")
  assert name == "3ca1dbf990"
  code = "from tests.experiments.test_sweep_plan import names; print(names('num_steps=1')[0])"
  again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert again.stdout.strip() == name, again.stderr


def test_a_field_that_the_code_gains_changes_no_name():
  def trainer(num_steps: int):
    return num_steps

  def newer(num_steps: int, slices: int = 1, mesh: toy_family.Mesh = MESH):
    return num_steps, slices, mesh

  before = config_name(fdl.Config(trainer, num_steps=3), TOY)
  assert config_name(fdl.Config(newer, num_steps=3), TOY) == before
  assert config_name(fdl.Config(newer, num_steps=3, slices=2), TOY) != before


@pytest.mark.parametrize(
  "sweep, override",
  [
    ("num_steps=1,2", "set:num_steps=3"),
    ("num_steps=1,2", "set:num_steps=1"),
    ("num_steps=1,2", "unset:num_steps"),
    ("model.width=1,2", "fiddler:toy_tiny(width=9)"),
    (f"model={MODEL},{MODEL}(width=2)", "fiddler:toy_tiny(width=9)"),
    ("model.width=1,2", f"set:model={MODEL}(width=3)"),
    (f"model={MODEL}(width=1)", "set:model.num_layers=3"),
    ("sizes=[1],[2]", "set:sizes+=3"),
    ("callbacks[0].patience=1,2", "set:callbacks=[@toy_stop(patience=9)]"),
    ("callbacks[1].patience=1,2", "set:callbacks+=@toy_stop(patience=9)"),
    ("callbacks[-1].patience=1,2", "set:callbacks[0].patience=9"),
    ("eval_data.validation.path=a,b", "set:eval_data['validation'].path=c"),
    ("num_steps=1,2", "config:FILE"),
  ],
)
def test_what_is_swept_and_set_is_an_error_that_names_both(sweep, override, tmp_path):
  file = tmp_path / "more.yaml"
  file.write_text("set: {num_steps: 5}")
  override = override.replace("FILE", str(file))
  with pytest.raises(UserError) as error:
    plan(sweep, overrides=(override,))
  message = str(error.value)
  assert f"is swept by --sweep={sweep} and set by " in message
  assert (
    str(file) if "config" in override else "--" + override.replace(":", "=", 1)
  ) in message


@pytest.mark.parametrize(
  "sweep, override",
  [
    ("optimizer.learning_rate=1,2", "set:optimizer=@toy_sgdm"),
    ("optimizer.momentum=0,1", "set:optimizer=@toy_sgdm(learning_rate=1)"),
    ("callbacks[1].patience=1,2", "set:callbacks+=@toy_stop"),
    ("callbacks[0].patience=1,2", "set:callbacks+=@toy_stop(patience=9)"),
    ("dropout=0.1,0.2", "fiddler:toy_tiny"),
    ("eval_data['more']=@toy_data,@toy_data(path=x)", "set:num_steps=3"),
  ],
)
def test_what_an_override_leaves_open_may_be_swept(sweep, override):
  assert len(plan(sweep, overrides=(override,)).points) == 2


def test_a_stored_config_is_a_sweep_s_starting_point(tmp_path):
  config = toy_family.Nano().config()
  config.num_steps = 77
  (tmp_path / "config.json").write_text(to_json(config, TOY))
  stored = [Override("config", str(tmp_path))]
  points = plan_sweep(None, stored, ["num_steps=77,78"]).points
  assert [point.config.num_steps for point in points] == [77, 78]
  assert points[0].name == config_name(config, TOY)


@pytest.mark.parametrize(
  "sweeps",
  [
    ("num_steps=1,2", "num_steps=3"),
    ("callbacks[0].patience=1", "callbacks[-1].patience=2"),
  ],
)
def test_two_sweeps_of_one_field_are_an_error_that_names_both(sweeps):
  with pytest.raises(UserError, match="sweep the same field") as error:
    plan(*sweeps)
  assert all(f"--sweep={sweep}" in str(error.value) for sweep in sweeps)


def test_a_value_may_not_settle_what_another_axis_sweeps():
  with pytest.raises(UserError, match=r"model.width is swept by .* and set by --sweep=model="):
    plan("model.width=1,2", f"model={MODEL}(width=1)")
  with pytest.raises(UserError, match=r"there is no callbacks\[0\]: callbacks is empty"):
    plan("callbacks=[]", "callbacks[0].patience=1")


def test_a_shared_node_is_one_field_under_two_paths(monkeypatch):
  def shared(self):
    config = toy_family.Toy.config(self)
    config.callbacks = [config.callbacks[0]] * 2
    return config

  monkeypatch.setattr(toy_family.Nano, "config", shared)
  with pytest.raises(UserError, match="sweep the same field"):
    plan("callbacks[0].patience=1", "callbacks[1].patience=2")
  with pytest.raises(UserError, match="and set by --set=callbacks"):
    plan("callbacks[0].patience=1", overrides=("set:callbacks[1].patience=2",))


def test_every_wrong_value_of_every_path_is_reported_once():
  with pytest.raises(UserError) as error:
    plan("num_steps=1,x,2.5", "shuffle=True,maybe", "dropout=0,0.5")
  assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
    "--sweep=num_steps=x",
    "--sweep=num_steps=2.5",
    "--sweep=shuffle=maybe",
  ]


def test_a_wrong_path_is_reported_once_with_the_nearest():
  with pytest.raises(UserError, match=r"^--sweep=num_stps=1,2: .*did you mean num_steps"):
    plan("num_stps=1,2")


def test_a_required_value_that_no_point_gives_is_an_error():
  with pytest.raises(UserError, match="model.width has no default and no value"):
    plan(f"model={MODEL}(),{MODEL}(width=1)")


def test_two_points_that_are_one_run_are_an_error_that_names_the_values():
  with pytest.raises(UserError, match="dropout=0.1 and dropout=1e-1 are the same run"):
    plan("dropout=0.1,1e-1", "num_steps=1,2")
