"""A fresh run begins with what it is told to and says what that is; the rest is refused."""

import re

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from layers.errors import UserError
from runners import optimizers
from runners.array_names import named_arrays
from runners.assembly import assemble
from runners.callbacks import EarlyStopping
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import open_step, read_arrays
from runners.checkpoints.retention import Checkpoints
from runners.interchange.init_from import InitFrom, check_source
from runners.interchange.warm_start import warm_state
from runners.metrics.json_lines import JsonLines
from runners.training import train
from tests.runners.continued_run import losses
from tests.runners.toy_run import assert_bitwise_equal, begin, toy_config

LAYER = "stack/layers/{}/feed_forward/up/kernel"


def _config(**fields):
  adamw = fdl.Config(optimizers.adamw, learning_rate=1e-2)
  return toy_config(optimizer=adamw, **{"num_steps": 2, **fields})


def _deeper():
  config = _config()
  config.model.num_layers = 2
  return config


@pytest.fixture(scope="module")
def before(tmp_path_factory):
  """A run of two steps with a layer, on a mesh that padded the 19 letters to 24."""
  folder = tmp_path_factory.mktemp("before") / "run"
  config = _config()
  config.model.padded_vocab_size = 24
  assert train(config, "toy.Run", str(folder)) == 0
  return folder


@pytest.fixture(scope="module")
def saved(before):
  step = open_step(find_step_folder(str(before)).absolute())
  return read_arrays(step, list(step.arrays))


def _begin_from(config, **source):
  """Name -> array of the state that begins there, of the fresh one, and the documents."""
  assembly, fresh = begin(config)
  state, documents = warm_state(
    fdl.Config(InitFrom, **source),
    assembly.trainer.model,
    assembly.initializer,
  )
  assert_bitwise_equal(jax.tree.map(np.shape, state), jax.tree.map(np.shape, fresh))
  return dict(named_arrays(state)), dict(named_arrays(fresh)), documents


def test_parameters_come_along_and_nothing_else(before, saved, capsys):
  state, fresh, documents = _begin_from(_config(), path=str(before))
  assert documents is None
  for name, x in state.items():
    want = saved[name][:19] if name == "params/embedding/table" else saved[name]
    np.testing.assert_array_equal(x, want if name.startswith("params/") else fresh[name])
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f"init_from   {before / 'checkpoints' / '2'}"
  assert "  loaded    20" in lines and "  missing   0" in lines and "  unused    0" in lines
  assert "    params/embedding/table  19x16" in lines


def _keeping_the_first(learning_rate):
  """An optimizer whose state holds the parameters that it began with."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.copy, params),
    lambda updates, state, params=None: (updates, state),
  )


def test_an_optimizer_that_keeps_parameters_begins_with_those_loaded(before):
  config = _config()
  config.optimizer = fdl.Config(_keeping_the_first, learning_rate=1e-2)
  for source in ({}, {"strict": False, "rules": [("^final_norm/", "other_norm/")]}):
    state, _, _ = _begin_from(config, path=str(before), **source)
    kept = {n.removeprefix("opt_state/"): x for n, x in state.items() if "opt_state/" in n}
    assert len(kept) == 20
    for name, x in kept.items():
      np.testing.assert_array_equal(x, state[f"params/{name}"])


def test_what_is_all_loaded_is_not_initialised_before(before, monkeypatch):
  initializer = assemble(_config(), "unused").initializer
  monkeypatch.setattr(initializer, "init", None)
  for everything in (False, True):
    source = fdl.Config(InitFrom, path=str(before), everything=everything)
    state, _ = warm_state(source, None, initializer)
    described = lambda x: (x.shape, x.dtype)
    got, want = (jax.tree.map(described, tree) for tree in (state, initializer.abstract))
    assert got == want


def test_everything_comes_along_padding_aside(before, saved):
  state, _, documents = _begin_from(_config(num_steps=4), path=str(before), everything=True)
  assert documents is not None and documents["data"]["batch"] == 2
  assert state.keys() == saved.keys()
  for name, x in state.items():
    kept = 19 if name.endswith("embedding/table") else None
    np.testing.assert_array_equal(x, saved[name][:kept] if kept else saved[name])


@pytest.mark.slow
def test_a_run_begun_from_everything_goes_on_bitwise_in_a_workdir_of_its_own(tmp_path):
  def run(name, num_steps, **fields):
    config = _config(
      dropout_rate=0.1,
      num_steps=num_steps,
      log_every=1,
      writers=[fdl.Config(JsonLines)],
      callbacks=[fdl.Config(EarlyStopping, metric="train/loss", patience=9)],
      checkpoints=fdl.Config(Checkpoints, every=2),
      **fields,
    )
    assert train(config, "toy.Run", str(tmp_path / name)) == 0
    step = open_step(find_step_folder(str(tmp_path / name)).absolute())
    return losses(tmp_path / name), read_arrays(step, list(step.arrays)), step.documents["run"]

  want_losses, want, want_run = run("unbroken", 4)
  half = str(tmp_path / "unbroken" / "checkpoints" / "2")
  began = fdl.Config(InitFrom, path=half, everything=True)
  got_losses, got, got_run = run("branch", 4, init_from=began)
  assert got_losses == {step: want_losses[step] for step in (3, 4)}
  assert_bitwise_equal(got, want)
  assert want_run["callbacks"][-1] == ["LoggedRows", {"rows": 4}]
  want_run["callbacks"][-1] = ["LoggedRows", {"rows": 2}]  # those of its own workdir
  assert got_run == want_run
  with pytest.raises(UserError, match="at step 2 and this one ends at step 2: raise num_steps"):
    run("shorter", 2, init_from=began)


def test_rules_rename_and_what_is_missing_begins_as_in_any_run(before, saved, capsys):
  state, fresh, _ = _begin_from(
    _deeper(),
    path=str(before),
    rules=[("^stack/layers/0/", "stack/layers/1/"), ("final_norm/(b)", r"last_norm/\1")],
    strict=False,
  )
  old = "params/" + LAYER.format(0)
  np.testing.assert_array_equal(state["params/" + LAYER.format(1)], saved[old])
  for name in (old, "params/final_norm/bias"):
    np.testing.assert_array_equal(state[name], fresh[name])
  lines = capsys.readouterr().out.splitlines()
  assert "  loaded    19" in lines and "  unused    1" in lines
  assert "  missing   17, begin as in any run" in lines
  assert lines[-1] == "    params/final_norm/bias, here params/last_norm/bias  16"


def test_moments_follow_the_parameters_that_rules_rename(before, saved):
  rules = [("^stack/layers/0/", "stack/layers/1/")]
  state, fresh, _ = _begin_from(
    _deeper(), path=str(before), rules=rules, strict=False, everything=True
  )
  moments = [name for name in saved if name.endswith(f"mu/{LAYER.format(0)}")]
  assert len(moments) == 1
  np.testing.assert_array_equal(state[moments[0].replace("/0/f", "/1/f")], saved[moments[0]])
  np.testing.assert_array_equal(state[moments[0]], fresh[moments[0]])


def test_what_does_not_fit_is_refused_with_names_and_the_way_to_be_lenient(before):
  with pytest.raises(UserError) as caught:
    _begin_from(_deeper(), path=str(before))
  said = str(caught.value)
  assert "params/stack/layers/1/attention/key/bias: missing there" in said
  assert "and 11 more" in said and "strict=False" in said
  with pytest.raises(UserError, match=r"bias, here params/extra: \(16,\) there, not used"):
    _begin_from(_config(), path=str(before), rules=[("^final_norm/bias$", "extra")])
  wider = _config()
  wider.model.block.feed_forward.hidden_dim = 24
  with pytest.raises(UserError, match=r"up/kernel: \(16, 64\) there, \(16, 24\) here"):
    _begin_from(wider, path=str(before), strict=False)


WRONG_RULES = {
  "'x') is no rule of renaming: missing )": [("(", "x")],
  "is no rule of renaming: invalid group reference 2": [("(a)", r"\2")],
  "attention/key/kernel one name, params/x": [("^.*/key/.*$", "x")],
}


@pytest.mark.parametrize("said", WRONG_RULES)
def test_rules_that_cannot_be_applied_are_refused(before, said):
  with pytest.raises(UserError, match=re.escape(said)):
    _begin_from(_config(), path=str(before), rules=WRONG_RULES[said])


def test_a_source_that_is_not_there_or_is_no_run_is_refused(tmp_path):
  (tmp_path / "empty").mkdir()
  for source, said in {
    "nowhere": "no such run or checkpoint folder",
    "empty": "holds no checkpoint",
  }.items():
    with pytest.raises(UserError, match=said):
      check_source(str(tmp_path / source))
  theirs = tmp_path / "theirs"
  theirs.mkdir()
  (theirs / "config.json").write_text('{"model_type": "llama"}')
  check_source(str(theirs))
  for source in (
    InitFrom(path=str(theirs), everything=True),
    InitFrom(path=str(theirs), strict=False),
    InitFrom(path=str(theirs), rules=[("a", "b")]),
  ):
    with pytest.raises(UserError, match="a Hugging Face folder: it has parameters alone"):
      check_source(source)


def test_layers_that_are_alike_share_a_line(before, capsys):
  config = _config()
  config.model.num_layers = 4
  _begin_from(config, path=str(before), strict=False)
  lines = capsys.readouterr().out.splitlines()
  assert "    params/stack/layers/*/attention/key/bias  3 of 4x4" in lines
  assert "  missing   48, begin as in any run" in lines and len(lines) == 4 + 20 + 16
