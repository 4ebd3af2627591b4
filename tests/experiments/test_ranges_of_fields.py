"""A number that cannot be is refused where it is typed, and again whoever else put it there."""

import typing

import fiddle as fdl
import pytest

from experiments.edits import set_value
from experiments.gpt2 import Nano
from experiments.llama import SIZES, Llama
from experiments.paths import parse_path
from experiments.references import IN_TREE, find_reference
from experiments.value_syntax import parse_value
from layers.errors import UserError
from layers.ranges import Range
from runners.callbacks import EarlyStopping, Profile
from runners.checkpoints.retention import Checkpoints
from runners.configs.fields import fields
from runners.configs.ranges import check_ranges
from runners.configs.tree import walk
from runners.schedules import warmup_stable_decay
from runners.trainer import Trainer
from tasks.jsonl import Jsonl
from tasks.mixture import Mixture


class Model(Llama):
  size = SIZES["llama3.1-8b"]


def _config():
  config = Nano().config()
  config.model.block = Model().model().block
  config.callbacks = [fdl.Config(EarlyStopping), fdl.Config(Profile)]
  config.optimizer.learning_rate = fdl.Config(warmup_stable_decay, peak=1e-3)
  config.train_data = fdl.Config(Mixture, sources={"a": fdl.Config(Jsonl)}, rates={"a": 1.0})
  return config


# path -> values that cannot be
WRONG = {
  "model.num_layers": (0, -1),
  "model.model_dim": (0,),
  "model.vocab_size": (0,),
  "model.loss_chunk": (0,),
  "model.dropout_rate": (1.0, -0.1, 2),
  "model.init_stddev": (-0.02,),
  "model.norm.epsilon": (0.0, -1e-5),
  "model.block.attention.num_heads": (0, -4),
  "model.block.attention.num_kv_heads": (0,),
  "model.block.attention.head_dim": (-4, 0),
  "model.block.attention.rotary.theta": (0.0, 1.0),
  "model.block.attention.rotary.scaling.factor": (0.0, -8.0),
  "model.block.feed_forward.hidden_dim": (0,),
  "model.block.feed_forward.chunk": (0,),
  "optimizer.learning_rate.peak": (-1, float("inf"), float("nan")),
  "optimizer.learning_rate.warmup": (-5, 1.5, -0.1),
  "optimizer.learning_rate.decay": (-3, 2.0),
  "optimizer.learning_rate.num_steps": (0,),
  "optimizer.b1": (1.0,),
  "optimizer.eps": (0.0,),
  "optimizer.weight_decay": (-0.1,),
  "optimizer.clip_norm": (0.0, -1.0),
  "batch_size": (0, -8),
  "sequence_length": (0,),
  "microbatch_size": (-4,),
  "num_steps": (0,),
  "num_epochs": (0,),
  "log_every": (0,),
  "eval_every": (0,),
  "seed": (2**63,),
  "mesh.fsdp": (0, -2),
  "mesh.dcn_data": (-1,),
  "checkpoints.every": (0,),
  "checkpoints.keep_latest": (0,),
  "checkpoints.keep_best": (-1,),
  "callbacks[0].patience": (0,),
  "callbacks[0].min_delta": (-0.1,),
  "callbacks[1].start": (0,),
  "objective.z_loss": (-1e-4,),
  "eval_data['validation'].num_batches": (0,),
  "train_data.rates['a']": (0.0, -1.0),
  "train_data.sources['a'].validation_fraction": (1.5, -0.1),
  "train_data.sources['a'].max_bad_fraction": (2.0,),
}
CASES = [(path, value) for path, values in WRONG.items() for value in values]


@pytest.mark.parametrize("path, value", CASES)
def test_a_number_that_cannot_be_is_refused_where_it_is_typed(path, value):
  text = repr(value) if value == value and abs(value) != float("inf") else "1e999"
  with pytest.raises(UserError, match=r"^expected .*(int|float) \(") as error:
    set_value(_config(), parse_path(path), parse_value(text))
  assert len(str(error.value)) < 200 and "\n" not in str(error.value)


@pytest.mark.parametrize("path, value", CASES)
def test_a_number_that_python_put_there_is_refused_with_its_path(path, value):
  config, (*above, last) = _config(), parse_path(path)
  owner = config
  for step in above:
    owner = step.follow(owner)
  if hasattr(last, "key"):
    owner[last.key] = value
  else:
    setattr(owner, last.name, value)
  with pytest.raises(UserError) as error:
    check_ranges(config)
  assert str(error.value).startswith(f"{path}={value} must be ")
  assert "\n" not in str(error.value)


def test_numbers_at_the_edge_and_those_without_a_range_are_taken():
  config = _config()
  config.model.num_layers, config.model.dropout_rate = 1, 0
  config.optimizer.learning_rate.warmup, config.optimizer.learning_rate.decay = 0, 1.0
  config.mesh.data, config.seed, config.checkpoints.keep_best = -1, -1, 0
  check_ranges(config)


def test_a_whole_number_that_is_none_is_refused():
  config = _config()
  config.num_steps = 2.5
  with pytest.raises(UserError, match=r"^num_steps=2.5 must be a whole number$"):
    check_ranges(config)


def test_a_built_part_is_looked_into_as_well():
  config = _config()
  config.checkpoints = Checkpoints(every=-1)
  with pytest.raises(UserError, match=r"^checkpoints.every=-1 must be at least 1$"):
    check_ranges(config)


def _numbers_without_a_range(target):
  for field in fields(target).values():
    members = typing.get_args(field.annotation) or (field.annotation,)
    if isinstance(field.annotation, type) or typing.get_origin(field.annotation) in (
      typing.Union,
      type(int | None),
    ):
      yield from (field.name for member in members if member in (int, float))


def test_every_number_of_what_ships_has_a_range():
  targets = [find_reference(name) for name in IN_TREE] + [Trainer]
  targets += [fdl.get_callable(node) for _, node, _ in walk(_config()) if _is_node(node)]
  found = {f"{t.__qualname__}.{name}" for t in targets for name in _numbers_without_a_range(t)}
  assert found == set()


def test_a_range_is_among_what_a_type_says_of_a_field():
  annotation = fields(Trainer)["batch_size"].annotation
  assert typing.get_args(annotation) == (int, Range(at_least=1))


def _is_node(value):
  return isinstance(value, fdl.Buildable)
