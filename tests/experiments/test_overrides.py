"""Overrides are typed and applied in order, all or none, and an error names the cure."""

import json

import fiddle as fdl
import jax
import pytest

from experiments.overrides import Override, OverrideErrors, apply_overrides
from experiments.registry import find
from layers.attention_cores.blockwise import BlockwiseAttention
from runners.configs.files import save
from runners.configs.tree import flatten
from tests.experiments import toy_family
from tests.experiments.toy_family import Data, Mesh, Norm, Policy, Stop, Toy

MODEL = "@tests.experiments.toy_family:Model()"


def apply(*arguments: str, config=None):
  """`apply("set=num_steps=3", "unset=name")`, as on the command line."""
  overrides = [Override(*argument.split("=", 1)) for argument in arguments]
  return apply_overrides(Toy().config() if config is None else config, overrides)


SET = {
  "num_steps=3": lambda c: c.num_steps == 3,
  "num_steps=None": lambda c: c.num_steps is None,
  "dropout=1": lambda c: c.dropout == 1.0 and type(c.dropout) is float,
  "dropout=1e-3": lambda c: c.dropout == 1e-3,
  "shuffle=False": lambda c: c.shuffle is False,
  "name=a bare text": lambda c: c.name == "a bare text",
  "name=/data/a=b.txt": lambda c: c.name == "/data/a=b.txt",
  "name='3'": lambda c: c.name == "3",
  "name=[a],b+c": lambda c: c.name == "[a],b+c",
  "name=a,b": lambda c: c.name == "a,b",
  "name={a},<|eos|>,[b]": lambda c: c.name == "{a},<|eos|>,[b]",
  "name='[a],b'": lambda c: c.name == "[a],b",
  "name=user@host.org": lambda c: c.name == "user@host.org",
  "policy=FULL": lambda c: c.policy is Policy.FULL,
  "policy=Policy.FULL": lambda c: c.policy is Policy.FULL,
  "policy='full'": lambda c: c.policy is Policy.FULL,
  "betas=(1, 0.5)": lambda c: c.betas == (1.0, 0.5),
  "betas=[0.8, 0.9]": lambda c: c.betas == (0.8, 0.9),
  "betas[-1]=0.99": lambda c: c.betas == (0.9, 0.99),
  "sizes=[1, 2]": lambda c: c.sizes == [1, 2],
  "sizes+=3": lambda c: c.sizes == [3],
  "sizes+=[3, 4]": lambda c: c.sizes == [3, 4],
  "sharding+=('heads', None)": lambda c: c.sharding == (("batch", "data"), ("heads", None)),
  "sharding+=(('a', 'b'), ('c', ('d', 'e')))": lambda c: len(c.sharding) == 3,
  "rates={'a': 1}": lambda c: c.rates == {"a": 1.0},
  "rates['new']=2": lambda c: c.rates == {"new": 2.0},
  "mesh.fsdp=8": lambda c: fdl.build(c.mesh) == Mesh(fsdp=8),
  "model.dtype=bfloat16": lambda c: c.model.dtype == "bfloat16",
  "model.dtype='float32'": lambda c: c.model.dtype == "float32",
  "model.anything=(1, 'x')": lambda c: c.model.anything == (1, "x"),
  "model.activation=@toy_gelu": lambda c: c.model.activation is toy_family.gelu,
  "model.norm=@toy_norm": lambda c: c.model.norm == fdl.Config(Norm),
  "model.norm=@toy_norm(epsilon=1)": lambda c: c.model.norm == fdl.Config(Norm, epsilon=1.0),
  "model.norm=None": lambda c: c.model.norm is None,
  "model.norm.epsilon=2": lambda c: c.model.norm.epsilon == 2.0,
  "model.activation=@jax.nn:relu": lambda c: c.model.activation is jax.nn.relu,
  "optimizer=@optax:adamw(learning_rate=1)": lambda c: c.optimizer.learning_rate == 1.0,
  "optimizer=@toy_sgdm(learning_rate=1)": lambda c: c.optimizer.learning_rate == 1.0,
  "optimizer=@tests.experiments.toy_family:Stop(patience=2)": lambda c: (
    c.optimizer.patience == 2
  ),
  "optimizer=@toy_open_ended(extra=@toy_norm())": lambda c: (
    c.optimizer.extra == fdl.Config(Norm)
  ),
  "callbacks[0].patience=7": lambda c: c.callbacks[0].patience == 7,
  "callbacks[-1].patience=7": lambda c: c.callbacks[0].patience == 7,
  "callbacks+=@toy_stop(patience=9)": lambda c: c.callbacks[1] == fdl.Config(Stop, patience=9),
  "callbacks+=[@toy_stop(), @toy_stop()]": lambda c: len(c.callbacks) == 3,
  "callbacks=[]": lambda c: c.callbacks == [],
  "eval_data['validation'].vocabulary=characters": lambda c: (
    c.eval_data["validation"].vocabulary == "characters"
  ),
  "eval_data[validation].path=x.txt": lambda c: c.eval_data["validation"].path == "x.txt",
  "eval_data.validation.path=x.txt": lambda c: c.eval_data["validation"].path == "x.txt",
  "eval_data['test']=@toy_data(path='y')": lambda c: (
    list(c.eval_data) == ["validation", "test"] and c.eval_data["test"].path == "y"
  ),
}


@pytest.mark.parametrize("text", SET)
def test_a_value_is_read_as_its_field_wants_it(text):
  assert SET[text](apply(f"set={text}").config)


WRONG = {
  "set=model.num_layrs=3": ["Model has no field 'num_layrs'", "did you mean model.num_layers?"],
  "set=num_layers=3": ["Trainer has no field 'num_layers'", "model.num_layers"],
  "set=modle.width=3": ["did you mean model?"],
  "set=parent=3": ["no field 'parent'"],
  "set=model.name=x": ["Model has no field 'name'"],
  "set=num_steps=2.5": ["expected int or None, got 2.5"],
  "set=num_steps=1e6": ["write 1000000"],
  "set=num_steps=many": ["expected int or None, got many"],
  "set=num_steps=": ["the value is empty"],
  "set=shuffle=1": ["expected bool, got 1"],
  "set=shuffle=true": ["expected bool, got true", "did you mean True?"],
  "set=name=3": ["expected str, got 3", "write '3', quotes included"],
  "set=name=None": ["expected str, got None"],
  "set=policy=FUL": ["expected a Policy (NONE, FULL), got FUL", "did you mean FULL?"],
  "set=betas=(1, 2, 3)": ["expected tuple[float, float]", "it has 3 items"],
  "set=betas=0.5": ["expected tuple[float, float], got 0.5"],
  "set=betas[2]=1": ["there is no betas[2]", "0 to 1"],
  "set=sizes=3": ["write [3]"],
  "set=sizes=[1, 'x']": ["expected list[int]"],
  "set=mesh=3": ["expected Mesh (@name(...)), got 3"],
  "set=mesh.fspd=3": ["Mesh has no field 'fspd'", "mesh.fsdp"],
  "set=model.dtype=bf16": ["expected a dtype (float32, bfloat16) or None"],
  "set=model.dtype=jnp.bfloat16": ["did you mean bfloat16"],
  "set=model.anything=word": ["'word', quotes included"],
  "set=model=3": ["expected Module (@name(...)), got 3"],
  "set=optimizer=3": ["it holds @tests.experiments.toy_family:sgdm()", "@name(...)"],
  "set=optimizer=@toy_sgd()": ["there is no @toy_sgd", "@toy_sgdm"],
  "set=optimizer=@toy_sgdm(lr=1)": ["no field 'lr'", "learning_rate"],
  "set=optimizer=@toy_sgdm(1)": ["arguments are given by name"],
  "set=optimizer=@toy_sgdm(learning_rate=x)": ["learning_rate: expected float, got x"],
  "set=optimizer=@toy_sgdm(": ["cannot be read"],
  "set=optimizer=@nowhere.at_all:Adam()": ["no module 'nowhere.at_all'"],
  "set=optimizer=@tests.experiments.toy_family:Stp()": ["has no 'Stp'", "did you mean Stop"],
  "set=model.norm=@toy_stop()": ["expected Module (@name(...)) or None", "gives Stop"],
  "set=model.activation=3": ["expected a callable (@name), got 3"],
  "set=model.anything.x=3": ["model.anything is None", "first set it whole"],
  "set=model.width.x=3": ["model.width is 8, so it has no field 'x'"],
  "set=model.width[0]=3": ["model.width is 8, which cannot be indexed"],
  "set=callbacks[5].patience=1": ["there is no callbacks[5]", "callbacks+=VALUE"],
  "set=callbacks.patience=1": ["name the element, like callbacks[0].patience"],
  "set=callbacks['a']=1": ["index it with a number"],
  "set=callbacks+=@toy_norm()": ["expected Stop (@name(...))", "gives Norm"],
  "set=name+=x": ["+= appends to a list or tuple"],
  "set=eval_data.valid.path=x": [
    "a dict without 'valid': did you mean eval_data['validation']?",
    "a new entry is eval_data['valid']",
  ],
  "set=model.nume=3": ["Model has no field 'nume': did you mean model.num_layers"],
  "set=model.norm=toy_norm": ["got toy_norm; did you mean @toy_norm(...)?"],
  "set=optimizer=toy_sgdm": ["did you mean @toy_sgdm(...)?"],
  "set=optimizer=toy_sgdm(learning_rate=1)": ["did you mean @toy_sgdm(learning_rate=1)?"],
  "set=model.activation=toy_relu": ["did you mean @toy_relu?"],
  "set=callbacks=[toy_stop]": ["got [toy_stop]; did you mean @toy_stop(...)?"],
  "set=eval_data[valid].path=x": ["there is no eval_data['valid']", "eval_data['validation']"],
  "set=eval_data['validation'].vocabulary=chars": ["did you mean characters?"],
  "set=num_steps": ["write PATH=VALUE"],
  "set=model..width=3": ["cannot be read from '..width' on"],
  "set==3": ["the path is empty"],
  "unset=model.width": ["model.width cannot be unset", "gives width no default"],
  "unset=model.wdith": ["did you mean model.width?"],
  "fiddler=toy_tin": ["there is no fiddler 'toy_tin'", "toy_tiny"],
  "fiddler=toy_tiny(wdth=3)": ["no argument 'wdth'", "width"],
  "fiddler=toy_tiny(width=x)": ["width: expected int, got x"],
  "config=/nowhere.yaml": ["cannot read /nowhere.yaml"],
}


@pytest.mark.parametrize("argument", WRONG)
def test_an_error_names_the_argument_what_was_expected_and_the_nearest(argument):
  with pytest.raises(OverrideErrors) as caught:
    apply(argument)
  (message,) = caught.value.errors
  assert message.startswith(f"--{argument}: ") and "\n" not in message
  for part in WRONG[argument]:
    assert part in message


def test_a_required_field_must_have_a_value_when_all_overrides_are_applied():
  with pytest.raises(OverrideErrors) as caught:
    apply(f"set=model={MODEL}", "set=num_steps=3")
  assert caught.value.errors == (
    f"--set=model={MODEL}: model.width has no default and no value; add"
    " --set=model.width=VALUE",
  )
  config = apply(f"set=model={MODEL}", "set=model.width=2").config
  assert config.model.width == 2


def test_one_wrong_override_leaves_everything_as_it_was():
  config = Toy().config()
  before = flatten(config)
  with pytest.raises(OverrideErrors):
    apply("set=num_steps=77", "set=mesh.fsdp=2", "set=model.nope=1", config=config)
  assert flatten(config) == before == flatten(Toy().config())


def test_every_wrong_override_is_reported_but_not_what_only_follows_from_one():
  with pytest.raises(OverrideErrors) as caught:
    apply("set=optimizer=@toy_sgd()", "set=optimizer.nesterov=1", "set=shuffle=2")
  assert [error.partition(":")[0] for error in caught.value.errors] == [
    "--set=optimizer=@toy_sgd()",
    "--set=shuffle=2",
  ]


def test_overrides_of_all_kinds_apply_in_the_order_given(tmp_path):
  file = tmp_path / "more.yaml"
  file.write_text("set: {num_steps: 30}")
  order = [
    "set=num_steps=20",
    f"config={file}",
    "fiddler=toy_tiny(steps=40)",
    "unset=num_steps",
  ]
  assert [apply(*order[:n]).config.num_steps for n in range(5)] == [10, 20, 30, 40, None]
  assert apply(*reversed(order)).config.num_steps == 20


def test_unset_restores_the_default_and_takes_elements_out():
  config = apply("unset=num_steps", "unset=callbacks[0]", "unset=eval_data[validation]").config
  assert (config.num_steps, config.callbacks, config.eval_data) == (None, [], {})
  assert "num_steps" not in config.__arguments__


def test_a_fiddler_may_change_the_config_or_return_another():
  assert apply("fiddler=toy_tiny(width=5)").config.model.width == 5
  assert apply("fiddler=toy_replaced").config.model.width == 1
  by_full_name = apply("fiddler=tests.experiments.toy_family:toy_tiny(width=6)")
  assert by_full_name.config.model.width == 6


def test_a_node_at_two_paths_changes_at_both_and_is_still_one():
  config = Toy().config()
  config.model.anything = config.model.norm
  outcome = apply("set=model.norm.epsilon=0.5", config=config)
  assert outcome.config.model.anything is outcome.config.model.norm
  changed = {change.path for change in outcome.changes}
  assert changed == {"model.norm.epsilon", "model.anything.epsilon"}


WARNED = {
  ("set=num_steps=1", "set=num_steps=2"): "num_steps is set twice: --set=num_steps=2 wins",
  ("set=callbacks[0].patience=1", "set=callbacks[-1].patience=2"): "is set twice",
  (
    "set=model.norm.epsilon=1",
    "set=model.norm=None",
  ): "replaces model.norm, so --set=model.norm.",
  ("set=num_steps=3", "unset=num_steps"): "num_steps is set twice: --unset=num_steps wins",
  ("set=num_steps=3", "fiddler=toy_tiny"): "--fiddler=toy_tiny changes num_steps, which --set",
}


@pytest.mark.parametrize("arguments", WARNED, ids=" ".join)
def test_an_override_that_undoes_an_earlier_one_is_said_aloud(arguments):
  (warning,) = apply(*arguments).warnings
  assert WARNED[arguments] in warning


def test_appending_twice_is_no_conflict():
  outcome = apply("set=callbacks+=@toy_stop()", "set=callbacks+=@toy_stop()")
  assert len(outcome.config.callbacks) == 3 and not outcome.warnings


def test_a_file_holds_values_that_yaml_cannot_write(tmp_path):
  file = tmp_path / "run.yaml"
  file.write_text("""
    fiddlers: [toy_tiny(width=3)]
    unset: [name]
    set:
      optimizer: "@toy_sgdm(learning_rate=1e-3)"
      dropout: 1e-3
      policy: FULL
      betas: [0.5, 0.6]
      model.dtype: bfloat16
      callbacks+: ["@toy_stop(patience=8)"]
      eval_data['validation'].path: "3"
  """)
  config = apply("set=name=x", f"config={file}").config
  assert config.model.width == 3 and config.optimizer.learning_rate == config.dropout == 1e-3
  assert (config.policy, config.betas, config.name) == (Policy.FULL, (0.5, 0.6), "toy")
  assert config.model.dtype == "bfloat16" and config.callbacks[1].patience == 8
  assert config.eval_data["validation"] == fdl.Config(Data, path="3", num_batches=5)


WRONG_FILES = {
  "a: [": "is not YAML",
  "[1]": "holds no mapping",
  "sett: {}": "did you mean set",
  "set: [1]": "'set' must be a dict",
  "unset: [1]": "must be a list of texts",
  "set: {model.num_layrs: 3}": "set model.num_layrs: Model has no field",
  "set: {shuffle: 3}": "set shuffle: expected bool, got 3",
}


@pytest.mark.parametrize("content", WRONG_FILES)
def test_a_wrong_file_is_an_error_that_says_where(content, tmp_path):
  file = tmp_path / "wrong.yaml"
  file.write_text(content)
  with pytest.raises(OverrideErrors, match=f"--config={file}: ") as caught:
    apply(f"config={file}")
  assert WRONG_FILES[content] in str(caught.value)


def test_a_runs_config_replaces_the_whole_config(tmp_path):
  stored = apply("set=model.width=99").config
  save(stored, "toy_family.Nano", tmp_path)
  outcome = apply("set=num_steps=5", f"config={tmp_path / 'config.json'}", "set=name=again")
  assert outcome.config.model.width == 99 and outcome.config.num_steps == 10
  assert outcome.config.name == "again"
  assert "replaces the whole config, so --set=num_steps=5" in outcome.warnings[0]
  assert json.loads((tmp_path / "config.json").read_text())["exp"] == "toy_family.Nano"


def test_the_bare_name_of_a_class_whose_objects_are_called_makes_one():
  config = find("lwm.TextLlamaDebug").experiment().config()
  outcome = apply("set=model.block.attention.core=@BlockwiseAttention", config=config)
  core = outcome.config.model.block.attention.core
  assert isinstance(core, fdl.Config) and fdl.get_callable(core) is BlockwiseAttention
