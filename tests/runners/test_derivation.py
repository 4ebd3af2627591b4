"""One fact, one field: each row of the table in runners/derivation.py, and what is set wins."""

import copy

import fiddle as fdl
import numpy as np
import pytest

from input_pipelines.vocabularies import CharacterVocabulary
from runners import optimizers, schedules
from runners.configs.derived import derive_eval_data
from runners.derivation import derive, derive_schedules
from runners.devices.meshes import AXES, DEFAULT_RULES
from tasks.registered_task import RegisteredTask
from tests.runners.toy_run import LETTERS, ToyText, toy_config

VOCABULARY = CharacterVocabulary(LETTERS)


def _scheduled(**fields):
  rate = fdl.Config(schedules.warmup_cosine, peak=1.0)
  return toy_config(optimizer=fdl.Config(optimizers.adamw, learning_rate=rate), **fields)


def _derived(config, vocabulary=VOCABULARY, num_steps=70, **axes):
  mesh = dict.fromkeys(AXES, 1) | axes
  return derive(config, vocabulary=vocabulary, mesh=mesh, num_steps=num_steps)


def test_what_is_unset_follows_from_the_rest():
  config = _derived(_scheduled(sequence_length=24))
  assert config.model.vocab_size == 19
  assert config.model.padded_vocab_size == 19
  assert config.model.max_positions == 24
  assert config.model.block.attention.residual_depth == 1
  assert config.model.block.feed_forward.residual_depth == 1
  assert config.optimizer.learning_rate.num_steps == 70
  np.testing.assert_array_equal(config.objective.token_bytes, np.ones(19))


def test_the_schedules_of_several_optimizers_know_the_length_of_the_run():
  both = {"body": _scheduled().optimizer, "head": _scheduled().optimizer}
  derived = _derived(toy_config(optimizer=both), num_steps=70).optimizer
  assert [one.learning_rate.num_steps for one in derived.values()] == [70, 70]
  later = derive_schedules(_derived(toy_config(optimizer=both), num_steps=None), 8).optimizer
  assert [one.learning_rate.num_steps for one in later.values()] == [8, 8]


def test_what_is_set_wins():
  config = _scheduled()
  config.model.vocab_size = 32
  config.model.padded_vocab_size = 64
  config.model.max_positions = 100
  config.model.block.attention.residual_depth = None
  config.model.block.attention.compute_dtype = "bfloat16"
  config.optimizer.learning_rate.num_steps = 5
  config.objective.token_bytes = None
  derived = _derived(config)
  assert (derived.model.vocab_size, derived.model.padded_vocab_size) == (32, 64)
  assert derived.model.max_positions == 100
  assert derived.model.block.attention.residual_depth is None
  assert derived.model.block.attention.compute_dtype == "bfloat16"
  assert derived.model.block.feed_forward.compute_dtype == "float32"
  assert derived.optimizer.learning_rate.num_steps == 5
  assert derived.objective.token_bytes is None


def test_the_config_that_is_derived_from_stays_as_it_is():
  config = _scheduled(eval_data={"validation": fdl.Config(ToyText, split="validation")})
  before = copy.deepcopy(config)
  _derived(config)
  assert config == before


def test_a_second_derivation_changes_nothing():
  once = _derived(_scheduled())
  once.objective.token_bytes = None  # arrays do not compare
  assert _derived(once) == once


@pytest.mark.parametrize(
  "precision, want",
  [
    ({}, ("float32", "float32", "float32")),  # of a CPU
    ({"compute_dtype": "bfloat16"}, ("bfloat16", "float32", "float32")),
    ({"param_dtype": "bfloat16"}, ("float32", "bfloat16", "float32")),
    ({"activation_dtype": "bfloat16"}, ("float32", "float32", "bfloat16")),
  ],
)
def test_number_formats_reach_every_layer(precision, want):
  config = toy_config()
  for name, value in precision.items():
    setattr(config.precision, name, value)
  model = _derived(config).model
  assert (model.compute_dtype, model.param_dtype, model.activation_dtype) == want
  for layer in (model.block.attention, model.block.feed_forward):
    assert (layer.compute_dtype, layer.param_dtype) == want[:2]


def test_accelerators_compute_in_bfloat16_unless_told_otherwise(monkeypatch):
  monkeypatch.setattr("jax.default_backend", lambda: "tpu")
  model = _derived(toy_config()).model
  dtypes = (model.compute_dtype, model.param_dtype, model.activation_dtype)
  assert dtypes == ("bfloat16", "float32", "bfloat16")
  config = toy_config()
  config.precision.compute_dtype = "float32"
  assert _derived(config).model.activation_dtype == "float32"


@pytest.mark.parametrize(
  "vocabulary_rules, padded, said",
  [
    ((), 20, "a multiple of mesh.tensor=4"),
    ((("vocab", ("tensor", "fsdp")),), 24, "a multiple of mesh.tensor*mesh.fsdp=8"),
    ((("activation_vocab", ("tensor", "fsdp")), ("batch", "data")), 24, "=8"),
    ((("vocab", "fsdp"),), 20, "a multiple of mesh.fsdp*mesh.tensor=4"),
    ((("vocab", None), ("activation_vocab", None)), 19, ""),
  ],
)
def test_the_vocabulary_is_padded_aloud_to_what_its_rules_split_it_into(
  vocabulary_rules, padded, said, notes
):
  config = toy_config(sharding=(*vocabulary_rules, *DEFAULT_RULES))
  model = _derived(config, tensor=4, fsdp=2).model
  assert (model.vocab_size, model.padded_vocab_size) == (19, padded)
  assert said in "".join(notes)
  assert ("padded" in "".join(notes)) == (padded > 19)


@pytest.mark.parametrize(
  ("platform", "axes", "padded"),
  [("cpu", {}, 19), ("gpu", {}, 128), ("tpu", {"tensor": 3}, 384), ("cpu", {"tensor": 3}, 21)],
)
def test_on_accelerators_the_vocabulary_is_padded_aloud_to_whole_tiles(
  platform, axes, padded, notes
):
  mesh = dict.fromkeys(AXES, 1) | axes
  config = toy_config(sharding=DEFAULT_RULES)
  kwargs = {"vocabulary": VOCABULARY, "mesh": mesh, "num_steps": 1, "platform": platform}
  assert derive(config, **kwargs).model.padded_vocab_size == padded
  assert ("a multiple of 128" in "".join(notes) or "of 128," in "".join(notes)) == (
    platform != "cpu"
  )


def test_data_without_a_vocabulary_leaves_its_fields_alone():
  config = _derived(toy_config(), vocabulary=None)
  assert "vocab_size" not in config.model.__arguments__
  assert "token_bytes" not in config.objective.__arguments__
  assert config.model.max_positions == 12


def test_evaluation_data_take_what_they_leave_unset_but_not_which_part_they_are():
  config = toy_config(
    train_data=fdl.Config(ToyText, split="train", num_documents=7, num_batches=3),
    eval_data={
      "all": fdl.Config(ToyText, split="validation"),
      "own": fdl.Config(ToyText, split="validation", num_documents=5),
      "unsplit": fdl.Config(ToyText),
    },
  )
  eval_data = derive_eval_data(config).eval_data
  assert eval_data["all"] == fdl.Config(ToyText, split="validation", num_documents=7)
  assert eval_data["own"].num_documents == 5
  assert eval_data["unsplit"] == fdl.Config(ToyText, num_documents=7)


def test_evaluation_data_of_another_class_take_nothing():
  other = fdl.Config(RegisteredTask, task="another", split="validation")
  config = toy_config(eval_data={"other": other})
  assert derive_eval_data(config).eval_data["other"] == other


def test_a_run_may_have_no_evaluation_data():
  assert derive_eval_data(toy_config()).eval_data is None
  assert derive_eval_data(toy_config(eval_data={})).eval_data == {}
