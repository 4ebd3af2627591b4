"""A config survives its files: equal after reading, stable in print, refused when damaged."""

import dataclasses
import enum
import functools
import json
import re
from typing import Any

import fiddle as fdl
import jax
import numpy as np
import pytest
from flax import linen as nn

from layers.errors import UserError
from runners.configs import files as config_files
from runners.configs.tree import copy_config, flatten, format_value
from tests.runners.toy_run import ToyText, toy_config


class Color(enum.Enum):
  RED = "red"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
  size: int = 1
  pair: tuple[str, str | None] = ("a", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
  required: Any
  inner: Inner = Inner(size=5)
  other: Any = None
  many: list = dataclasses.field(default_factory=list)
  named: dict = dataclasses.field(default_factory=dict)


class Layer(nn.Module):
  width: int = 3


def function(x=1):
  return x


def nested() -> fdl.Config:
  shared = fdl.Config(Inner, pair=("x", None))
  return fdl.Config(
    Outer,
    required=shared,
    other=shared,
    many=[fdl.Config(Layer), (1, "two", None, 3.5, True)],
    named={
      "a": fdl.Partial(function, x=2),
      "b": function,
      "c": Color.RED,
      "d": jax.nn.gelu,
      "e": [jax.nn.relu],
    },
  )


def test_a_stored_config_reads_back_equal_shared_nodes_and_all():
  stored = config_files.from_json(config_files.to_json(nested(), "toy.Exp"), "config.json")
  assert stored.exp == "toy.Exp" and stored.config == nested()
  assert stored.config.required is stored.config.other
  assert isinstance(stored.config.many[1], tuple)
  assert stored.config.named["e"][0] is jax.nn.relu  # an object, not a function


def test_a_copy_shares_callables_and_nothing_else():
  config = nested()
  copied = copy_config(config)
  assert copied == config and copied.required is copied.other is not config.required
  assert copied.named["e"][0] is jax.nn.relu and copied.named["e"] is not config.named["e"]


def test_the_flat_form_has_every_field_once_defaults_included_and_no_linen_noise():
  lines = flatten(nested())
  here = f"{__name__}:"
  assert lines["required"] == f"@{here}Inner()"
  assert lines["required.pair"] == "('x', None)"
  assert lines["other"] == "<same as required>" and "other.size" not in lines
  assert lines["inner.size"] == "5"
  assert lines["many[0].width"] == "3" and lines["many[1]"] == "(1, 'two', None, 3.5, True)"
  assert lines["named['a']"] == f"Partial(@{here}function())" and lines["named['a'].x"] == "2"
  assert lines["named['b']"] == f"@{here}function"
  assert lines["named['c']"] == "Color.RED" and lines["named['d']"] == "@jax.nn:gelu"
  assert not any(path.endswith((".parent", ".name")) for path in lines)
  assert flatten(fdl.Config(Outer))["required"] == "<not set>"


def test_two_prints_of_equal_configs_are_equal():
  assert config_files.to_text(nested()) == config_files.to_text(nested())
  text = "".join(
    map(format_value, (object(), functools.partial(function, x=object()), np.ones(3)))
  )
  assert not re.search("0x[0-9a-f]{4}", text)


def test_evaluation_data_print_as_they_will_be_used():
  config = toy_config(
    train_data=fdl.Config(ToyText, num_documents=7),
    eval_data={"validation": fdl.Config(ToyText, split="validation")},
  )
  text = config_files.to_text(config)
  assert "eval_data['validation'].num_documents = 7\n" in text
  assert "num_documents" not in config.eval_data["validation"].__arguments__


def test_differences_name_the_field_and_both_values():
  changed = nested()
  changed.inner = fdl.Config(Inner, size=9)
  changed.named = {}
  found = config_files.differences(nested(), changed)
  assert ("inner.size", "5", "9") in found
  assert ("named['c']", "Color.RED", None) in found
  assert not config_files.differences(nested(), nested())


def test_files_are_written_whole_and_read_by_folder(tmp_path):
  folder = tmp_path / "deep" / "run"
  config_files.save(nested(), "toy.Exp", folder)
  config_files.save(nested(), "toy.Exp", folder)
  assert sorted(path.name for path in folder.iterdir()) == ["config.json", "config.txt"]
  assert config_files.load(folder).config == nested()
  assert (folder / "config.txt").read_text() == config_files.to_text(nested())


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write .*choose another --workdir"):
    config_files.save(nested(), "toy.Exp", tmp_path / "file" / "run")


DAMAGE = {
  "not JSON": (lambda text: text[: len(text) // 2], "is not JSON"),
  "another kind of file": (lambda text: '{"exp": 1}', "is not a run's config.json"),
  "no root": (lambda text: text.replace('"root"', '"rot"'), "is damaged"),
  "not a config": (
    lambda text: json.dumps({"exp": "x", "config": {"root": {"type": "leaf", "value": 3}}}),
    "is damaged|not a config",
  ),
  "module gone": (
    lambda text: text.replace(f'"{__name__}"', '"module_of_yore"'),
    "no module 'module_of_yore'",
  ),
  "class gone": (lambda text: text.replace('"Outer"', '"Outter"'), "no 'Outter'.*Outer"),
  "field gone": (lambda text: text.replace('"pair"', '"pear"'), "no field 'pear'.*pair"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_clear_line(damage):
  change, message = DAMAGE[damage]
  text = change(config_files.to_json(nested(), "toy.Exp"))
  with pytest.raises(UserError, match=message) as caught:
    config_files.from_json(text, "runs/x/config.json")
  assert str(caught.value).startswith("runs/x/config.json") and "\n" not in str(caught.value)


def test_what_cannot_be_stored_is_said_before_anything_is_written(tmp_path):
  config = fdl.Config(Outer, required=np.ones(3))
  with pytest.raises(UserError, match="toy.Exp cannot be stored.*imported by name"):
    config_files.save(config, "toy.Exp", tmp_path)
