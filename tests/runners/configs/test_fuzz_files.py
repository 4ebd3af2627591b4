"""Whatever a config.json holds, a config or one short line comes out, and nothing is called."""

import copy
import json

import fiddle as fdl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.error_lines import MAX_LINE, error_lines
from layers.errors import UserError
from runners.configs import files as config_files
from tests.canary import CALLS, FUZZ, NAMES
from tests.experiments.test_fuzz_overrides import BASE

TEXT = config_files.to_json(BASE, "gpt2.Nano")


def _pyref(full_name):
  module, _, name = full_name.partition(":")
  return {"type": "pyref", "module": module, "name": name}


def _object(kind, items=(), metadata=None):
  named = [["", item] for item in items]
  return {"type": _pyref(kind), "items": named, "metadata": metadata}


VALUES = (
  *(
    None,
    0,
    -1,
    10**400,
    1e308,
    "",
    "x",
    "@adamw()",
    [],
    {},
    [[]],
    {"a": 1},
    True,
    "\ud800",
    "\0",
  ),
  *(
    ["root"],
    "root",
    {"type": "leaf"},
    {"type": "leaf", "value": {"x": 1}},
    {"type": 5},
    {"type": {}},
  ),
  *({"type": "ref", "key": key} for key in ("trainer_1", "tuple_1", "nothing", 3)),
  *(
    _pyref(name) for name in (*NAMES, "optax:adam", "layers.block:Block", "builtins:dict", ":")
  ),
  *(_object(name, ["touch x"], _pyref(name)) for name in (*NAMES, "optax:EmptyState")),
  *(_object(f"builtins:{kind}", [[], 1]) for kind in ("dict", "list", "tuple", "set", "bytes")),
  _object("builtins:dict", [1, 2], _object("builtins:tuple", [["a"], "a"])),
  _object("builtins:dict", [1, 2], _object("builtins:tuple", [_object("builtins:list"), "a"])),
  _object("fiddle._src.config:BuildableTraverserMetadata", ["touch x"], _pyref("os:system")),
  _object("fiddle._src.config:Config", [1], _object("builtins:tuple", [])),
  _object(
    "fiddle._src.partial:Partial", [], {"type": "ref", "key": "buildable_traverser_metadata_1"}
  ),
  _object("fiddle._src.tagging:TaggedValue", []),
)


def _paths(value, path=()):
  yield path
  if isinstance(value, dict | list):
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
      yield from _paths(child, (*path, key))


PLACES = [path for path in _paths(json.loads(TEXT)) if path]


@st.composite
def files(draw):
  """A valid file in which one or two places hold something else, are gone, or have more."""
  stored = json.loads(TEXT)
  for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=2)):
    owner = stored
    for step in place[:-1]:
      is_there = isinstance(owner, list) and isinstance(step, int) and step < len(owner)
      if not is_there and not (isinstance(owner, dict) and step in owner):
        break
      owner = owner[step]
    if isinstance(owner, dict):
      key = draw(st.sampled_from((place[-1], place[-1], "type", "items", "metadata", "value")))
      owner[str(key)] = copy.deepcopy(draw(st.sampled_from(VALUES)))
      if draw(st.booleans()):
        del owner[draw(st.sampled_from(sorted(owner)))]
    elif isinstance(owner, list) and owner:
      at = draw(st.integers(0, len(owner) - 1))
      owner[at] = copy.deepcopy(draw(st.sampled_from(VALUES)))
  text = json.dumps(stored)
  if draw(st.integers(0, 9)) == 0:
    at = draw(st.integers(0, len(text)))
    text = (
      text[:at]
      + draw(st.sampled_from(("", "[", "}", '"', "9" * 5000, "[" * 9999)))
      + text[at + 9 :]
    )
  return text


@pytest.mark.slow
@FUZZ
@given(files())
def test_whatever_a_file_holds_a_config_or_one_short_line_comes_out(text):
  try:
    config = config_files.from_json(text, "config.json").config
    assert isinstance(config, fdl.Config)
    config_files.to_text(config).encode()
  except UserError as error:
    (line,) = error_lines(error)
    assert len(line) <= MAX_LINE + 5 and line.isprintable()
  assert not CALLS
