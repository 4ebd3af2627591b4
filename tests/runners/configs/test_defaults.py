"""The defaults of a config are kept, and hold again where those of the code have changed."""

import dataclasses
import json
from typing import Any

import fiddle as fdl
import pytest

from experiments import registry
from layers.errors import UserError
from runners import optimizers
from runners.checkpoints.retention import Checkpoints
from runners.configs import files as config_files
from runners.configs.defaults import (
  Changed,
  defaults_listed,
  is_default,
  recorded_defaults,
  recorded_fields,
  restore,
)
from runners.configs.derived import derived_fields
from runners.configs.tree import flatten, path_text, walk
from runners.trainer import Trainer
from tests.redefined import redefined
from tests.runners.toy_run import ToyText, toy_config


def toy(**fields: Any) -> fdl.Config:
  return toy_config(optimizer=fdl.Config(optimizers.adamw, learning_rate=0.1), **fields)


@pytest.mark.parametrize("name", ["gpt2.Nano", "lwm.TextLlamaDebug", "gpt2.Small"])
def test_every_field_is_set_recorded_or_derived(name):
  config = registry.find(name).experiment().config()
  stored = json.loads(config_files.to_json(config, name))
  given = {path_text(path) for path, _, _ in walk(config) if not is_default(config, path)}
  kept, derived = set(stored["defaults"]), set(derived_fields(config))
  assert kept and not kept & (given | derived)
  taken_over = (
    {path for path in flatten(config) if path.startswith("eval_data[")} - given - kept
  )
  assert set(flatten(config)) == given | kept | derived | taken_over
  assert all(not path.endswith((".split", ".num_batches")) for path in taken_over)


def test_evaluation_data_record_what_they_do_not_take_over():
  eval_data = {"same": fdl.Config(ToyText, split="held_out"), "train": fdl.Config(ToyText)}
  recorded = recorded_defaults(toy(eval_data=eval_data))
  assert {path for path in recorded if path.startswith("eval_data")} == {
    *("eval_data['same'].num_batches", "eval_data['train'].num_batches"),
    "eval_data['train'].split",
  }
  assert recorded["train_data.num_documents"] == "40"


def test_a_changed_default_is_set_as_it_was_and_nothing_else_is():
  config = toy(eval_data={"validation": fdl.Config(ToyText, split="validation")})
  recorded = recorded_defaults(config)
  with redefined(optimizers.adamw, b2=0.5), redefined(ToyText, num_documents=7):
    restored = restore(config, recorded)
    assert recorded_fields(config, recorded)["optimizer.b2"] == "0.95"
  assert restored.changed == (
    Changed("train_data.num_documents", "40", "7"),
    Changed("optimizer.b2", "0.95", "0.5"),
  )
  assert not restored.gone and not restored.unread
  config.optimizer.b2, config.train_data.num_documents = 0.95, 40
  assert restored.config == config  # what evaluation data take over stays unset


def test_nothing_is_set_where_no_default_has_changed():
  config = toy()
  assert restore(config, recorded_defaults(config)).config == config


def test_a_field_of_an_object_that_is_a_default_itself_is_set():
  config = toy()
  del config.checkpoints
  recorded = recorded_defaults(config)
  assert recorded["checkpoints"] == "@runners.checkpoints.retention:Checkpoints()"
  with redefined(Trainer, checkpoints=Checkpoints(keep_latest=9)):
    restored = restore(config, recorded)
  assert restored.changed == (
    Changed("checkpoints.keep_latest", recorded["checkpoints.keep_latest"], "9"),
  )
  config.checkpoints = fdl.Config(Checkpoints)
  assert flatten(restored.config) == flatten(config)


def test_a_default_that_was_another_object_is_set_whole():
  config = toy()
  recorded = recorded_defaults(config)
  with redefined(optimizers.adamw, decay_mask=None, clip_norm=None, frozen=("bias",)):
    restored = restore(config, recorded)
  config.optimizer.decay_mask, config.optimizer.clip_norm = optimizers.decay_kernels, 1.0
  config.optimizer.frozen = ()
  assert restored.config == config


def test_what_somebody_set_is_no_default():
  config = toy()
  config.optimizer.b2 = 0.99
  assert restore(config, {"optimizer.b2": "0.95"}).config == config
  assert recorded_fields(config, {"optimizer.b2": "0.95"}) == flatten(config)


def test_a_shared_part_is_recorded_once_and_stays_shared():
  config = toy()
  config.model.block.norm = config.model.norm
  recorded = recorded_defaults(config)
  assert [path for path in recorded if path.endswith("norm.epsilon")] == [
    "model.block.norm.epsilon"
  ]
  with redefined(fdl.get_callable(config.model.norm), epsilon=0.5):
    restored = restore(config, recorded).config
  assert restored.model.norm is restored.model.block.norm
  assert restored.model.norm.epsilon == float(recorded["model.block.norm.epsilon"])


def test_a_number_written_otherwise_is_the_same_number():
  config = toy()
  assert restore(config, {"optimizer.eps": "0.00000001"}).changed == ()
  assert recorded_fields(config, {"optimizer.eps": "0.00000001"}) == flatten(config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  size: int = 1


def older(step: float, slices: int = 2, part: Part = Part()):
  return step, slices, part


def newer(step: float, rows: int = 3):
  return step, rows


def test_a_field_that_was_added_is_no_difference_unless_it_is_set():
  record = recorded_fields(fdl.Config(newer, step=1.0), {})
  del record["rows"]  # which the version that wrote the record did not have
  assert config_files.changes_since(record, fdl.Config(newer, step=1.0)) == []
  (change,) = config_files.changes_since(record, fdl.Config(newer, step=1.0, rows=4))
  assert change.here_and_there() == "rows: absent there, 4 here"


def test_a_field_that_was_removed_is_named():
  recorded = recorded_defaults(fdl.Config(older, step=1.0))
  config = fdl.Config(newer, step=1.0)
  restored = restore(config, recorded)
  assert restored.config == config and not restored.changed and not restored.unread
  part = f"@{__name__}:Part()"
  assert restored.gone == (
    Changed("slices", "2", None),
    Changed("part", part, None),
    Changed("part.size", "1", None),
  )
  changes = config_files.changes_since(recorded_fields(config, recorded), config)
  assert [change.here_and_there() for change in changes] == [
    "slices: 2 there, absent here",
    f"part: {part} there, absent here",
    "part.size: 1 there, absent here",
  ]


@pytest.mark.parametrize(
  "text, reason",
  [("@os:system", "os"), ("<array float32[3] 0>", "read back"), ("'wide'", "another now")],
)
def test_a_value_that_cannot_be_read_is_told_and_still_is_a_difference(text, reason):
  config = toy()
  restored = restore(config, {"optimizer.b2": text})
  assert restored.config == config and len(restored.unread) == 1
  assert restored.unread[0].startswith(f"optimizer.b2 was {text} and is 0.95 (")
  assert reason in restored.unread[0]
  assert recorded_fields(config, {"optimizer.b2": text})["optimizer.b2"] == text


def test_the_lines_of_config_txt_tell_the_defaults_of_that_config_alone():
  config = toy(eval_data={"validation": fdl.Config(ToyText, split="validation")})
  listed = config_files.listed_fields(config_files.to_text(config))
  assert defaults_listed(listed, config, config_files.effective(config)) == recorded_defaults(
    config
  )
  other = toy(seed=3, eval_data=config.eval_data)
  assert defaults_listed(listed, other, config_files.effective(other)) is None


@pytest.mark.parametrize(
  "section",
  [
    "[]",
    "3",
    '"text"',
    '{"seed": 0}',
    '{"seed": null}',
    '{"seed": "\\u001b[2J"}',
    '{"se\\ned": "0"}',
    json.dumps(dict.fromkeys(map(str, range(10_001)), "1")),
  ],
)
def test_a_section_of_another_form_is_one_line(section):
  text = config_files.to_json(toy(), "toy.Exp")
  document = json.loads(text) | {"defaults": json.loads(section)}
  with pytest.raises(UserError, match="config.json") as error:
    config_files.from_json(json.dumps(document), "config.json")
  assert "\n" not in str(error.value) and len(str(error.value)) < 1000
