"""What a model does not say of itself does not apply to it: a plain MLP is a model too."""

import fiddle as fdl
import flax.linen as nn
import jax
import numpy as np

from layers.decoder import Decoder
from runners.checkpoints.retention import Checkpoints
from runners.evaluate_run import evaluate
from runners.model_traits import ModelTraits, traits
from runners.planning import search as plan_search
from runners.planning.ahead_of_time import plan_step
from runners.planning.plan import CompileError
from runners.planning.topologies import parse
from runners.training import train
from tests.runners.toy_run import ToyText, begin, toy_config


class Mlp(nn.Module):
  """Each token's successor from that token alone: no fields, no logical axes."""

  @nn.compact
  def __call__(self, ids, tokens):
    del tokens
    return nn.Dense(19)(nn.relu(nn.Dense(32)(jax.nn.one_hot(ids, 19))))


def _config(**fields):
  return toy_config(model=fdl.Config(Mlp), **fields)


def test_a_model_has_the_traits_that_it_names_and_no_others():
  names = set(ModelTraits.__annotations__)
  of_mlp, of_its_config = traits(Mlp()), traits(fdl.Config(Mlp))
  assert {getattr(found, name) for found in (of_mlp, of_its_config) for name in names} == {None}
  decoder = traits(fdl.Config(Decoder, num_layers=3, model_dim=16))
  assert (decoder.num_layers, decoder.remat, decoder.learned_positions) == (3, "none", True)
  assert decoder.vocab_size is None


def test_a_plain_mlp_trains_is_saved_as_it_is_and_is_evaluated(tmp_path, capsys):
  config = _config(
    num_steps=2,
    checkpoints=fdl.Config(Checkpoints),
    eval_data={"validation": fdl.Config(ToyText, split="validation", num_batches=1)},
  )
  workdir = str(tmp_path / "run")
  assert train(config, "toy.Mlp", workdir, cache_dir=str(tmp_path)) == 0
  assert evaluate(config, workdir, cache_dir=str(tmp_path)) == 0
  loss = float(capsys.readouterr().out.split("eval/validation/loss=")[1].split()[0])
  assert 0.0 < loss < 2 * np.log(19)


def test_without_a_padded_vocabulary_arrays_are_saved_as_they_are():
  assembly, _ = begin(_config())
  shapes = lambda state: jax.tree.map(lambda x: x.shape, state.params)
  initializer = assembly.initializer
  assert shapes(initializer.unpadded()) == shapes(initializer.abstract)


def test_a_plan_counts_a_model_without_layers_as_one():
  facts = plan_step(_config(), None)
  assert facts["num_layers"] == 1
  assert facts["parameters"] == 19 * 32 + 32 + 32 * 19 + 19


def test_a_search_tries_no_remat_on_a_model_that_has_none(monkeypatch):
  asked = []

  def plan(config, *_):
    asked.append(config)
    raise CompileError("nothing is compiled here")

  monkeypatch.setattr(plan_search, "plan", plan)
  found = plan_search.search(_config(), "toy.Mlp", parse("cpu:1"), seconds=60)
  assert [config.model for config in asked] == [fdl.Config(Mlp)]
  assert found.failed == ["one device remat=None microbatch=1: nothing is compiled here"]
