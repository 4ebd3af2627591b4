"""Any value anywhere in a Hugging Face folder is read, or refused in one short line."""

import copy
import json
import string

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from input_pipelines import tokenizer_files
from input_pipelines.foreign_json import Document
from layers.errors import UserError
from runners.interchange.hugging_face_config import fields
from runners.interchange.hugging_face_tokenizer import tokenizer_files as exported
from runners.interchange.params_reading import ParamsReader, check_sizes
from runners.interchange.safetensors_files import TensorFolder
from tests.canary import FUZZ
from tests.runners.their_folder import LLAMA, L, write_folder
from tests.runners.toy_run import ToyText

pytest.importorskip(
  "safetensors", reason="safetensors is not installed: pip install 'strata[hf]'"
)

GPT2 = {
  "model_type": "gpt2",
  "vocab_size": 260,
  "n_embd": 8,
  "n_layer": 2,
  "n_head": 4,
  "n_positions": 16,
}
FULL = {
  **LLAMA,
  "head_dim": 2,
  "hidden_act": "silu",
  "max_position_embeddings": 64,
  "original_max_position_embeddings": 16,
  "tie_word_embeddings": False,
  "attention_bias": False,
  "mlp_bias": False,
  "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8, "truncate": False},
}
JUNK = st.one_of(
  st.sampled_from(
    [None, True, "48", "", 3.0, 0, -1, 1, 10**6, 10**15, 10**400, 1e308, 5e-324, [], [1], {}]
    + [float("nan"), float("-inf"), "\n", "a\0b", "x" * 10_000, {"a": {}}, "default", "linear"]
    + ["llama3", "dynamic", "gpt2", "llama", "relu", "../../x"]
  ),
  st.integers(),
  st.floats(),
  st.text(string.printable, max_size=8),
)


def one_line(call):
  """What a call raises, if anything, is the user's to read."""
  try:
    call()
  except UserError as error:
    text = str(error)
    assert "\n" not in text and len(text) < 1000, text[:2000]


def paths_of(value, above=()):
  """The path of every field in a tree of objects."""
  found = []
  for name, part in value.items():
    found.append((*above, name))
    if isinstance(part, dict):
      found += paths_of(part, (*above, name))
  return found


def with_value(tree, path, value):
  tree = copy.deepcopy(tree)
  node = tree
  for name in path[:-1]:
    node = node[name]
  node[path[-1]] = value
  return tree


PLACES = [(FULL, path) for path in paths_of(FULL)] + [(GPT2, path) for path in paths_of(GPT2)]
PLACES += [(FULL, ("rope_scaling", name)) for name in ("mscale", "attention_factor", "type")]
PLACES += [(GPT2, (name,)) for name in ("n_inner", "activation_function", "scale_attn_weights")]


@pytest.mark.slow
@FUZZ
@hypothesis.given(st.sampled_from(PLACES), JUNK, st.sampled_from(PLACES), JUNK)
def test_any_value_anywhere_in_a_config_is_read_or_refused(place, value, other, more):
  config = with_value(place[0], place[1], value)
  if other[0] is place[0] and len(other[1]) == 1:
    config = with_value(config, other[1], more)

  def read():
    said = fields(Document(config, "config.json"))
    rotary = said.get("block.attention.rotary.scaling")
    if rotary is not None:
      rotary.frequencies(said["block.attention.rotary.theta"], 16)

  one_line(read)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
  """A folder of several files and an index."""
  folder = tmp_path_factory.mktemp("sharded") / "theirs"
  write_folder(folder, max_bytes=9000)
  return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "theirs"
  write_folder(folder)
  return folder


def opened(folder):
  """What is looked at before a tensor is read, and a tensor."""
  with TensorFolder(folder) as tensors:
    check_sizes(Document(LLAMA, "config.json"), tensors.tensors)
    one_line(lambda: ParamsReader(tensors, "llama", L, {"final_norm/scale": (8,)}))
    for name in list(tensors.tensors)[:1]:
      assert isinstance(tensors.read(name), np.ndarray)


FILES = [
  "model-00001-of-00009.safetensors",
  "config.json",
  "",
  ".",
  "..",
  "../x",
  "/etc/passwd",
]
FILES += [
  "\0",
  "a" * 300,
  "a/" * 3000,
  "nowhere.safetensors",
  "tokenizer.json/x",
  "\ud800",
  "é",
]


@pytest.mark.slow
@FUZZ
@hypothesis.given(
  st.sampled_from(["file", "tensor", "map", "bytes"]),
  st.integers(0, 10**6),
  st.one_of(st.sampled_from(FILES), JUNK),
)
def test_any_index_is_read_or_refused(sharded, kind, at, value):
  file = sharded / "model.safetensors.index.json"
  good = getattr(test_any_index_is_read_or_refused, "good", None) or file.read_text()
  test_any_index_is_read_or_refused.good = good
  index = json.loads(good)
  names = list(index["weight_map"])
  if kind == "file":
    index["weight_map"][names[at % len(names)]] = value
  elif kind == "tensor":
    index["weight_map"][str(value)] = index["weight_map"].pop(names[at % len(names)])
  elif kind == "map":
    index["weight_map"] = value
  text = json.dumps(index)
  if kind == "bytes":
    at %= len(text)
    text = text[:at] + str(value)[:50] + text[at + 1 :]
  file.write_bytes(text.encode("utf-8", "surrogatepass"))
  one_line(lambda: opened(sharded))


HEADERS = [
  b"[" * 2000,
  b"\xff",
  b"\0",
  b"}",
  b'"',
  b"-",
  b"9" * 30,
  b"F4",
  b"U8",
  b"BF16",
  b",",
]
LENGTHS = [0, 1, 2**62, 2**63, 2**64 - 1]


@pytest.mark.slow
@FUZZ
@hypothesis.given(
  st.sampled_from(["bytes", "length", "cut", "entry"]),
  st.integers(0, 10**6),
  st.one_of(st.sampled_from(HEADERS), st.binary(max_size=4)),
  st.one_of(st.sampled_from(LENGTHS), JUNK),
)
def test_any_header_of_a_file_of_tensors_is_read_or_refused(whole, kind, at, raw, value):
  file = whole / "model.safetensors"
  this = test_any_header_of_a_file_of_tensors_is_read_or_refused
  this.good = good = getattr(this, "good", None) or file.read_bytes()
  size = int.from_bytes(good[:8], "little")
  header, body = good[8 : 8 + size], good[8 + size :]
  if kind == "bytes":
    header = header[: at % size] + raw + header[at % size + len(raw) :]
  elif kind == "entry":
    entries = json.loads(header)
    name = list(entries)[at % len(entries)]
    part = ("dtype", "shape", "data_offsets", "format")[at % 4]
    entries[name][part] = [value, 8] if part in ("shape", "data_offsets") else value
    header = json.dumps(entries).encode()
  length = value if kind == "length" and isinstance(value, int) else len(header)
  data = (length % 2**64).to_bytes(8, "little") + header + body
  file.write_bytes(data[: at % len(data)] if kind == "cut" else data)
  one_line(lambda: opened(whole))


TOKENIZER_CONFIG = {
  "tokenizer_class": "PreTrainedTokenizerFast",
  "bos_token": "<s>",
  "eos_token": {"content": "</s>", "lstrip": False},
  "pad_token": None,
  "add_bos_token": True,
  "model_max_length": 1024,
  "added_tokens_decoder": {"0": {"content": "<s>", "special": True}},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  """A folder with a tokenizer.json."""
  folder = tmp_path_factory.mktemp("tokenizer")
  (folder / "tokenizer.json").write_bytes(exported(ToyText(), "runs/x")["tokenizer.json"])
  return folder


@pytest.mark.slow
@FUZZ
@hypothesis.given(st.sampled_from(paths_of(TOKENIZER_CONFIG)), JUNK, st.integers(0, 3000))
def test_any_tokenizer_config_is_read_or_refused(tokenizer, path, value, at):
  text = json.dumps(with_value(TOKENIZER_CONFIG, path, value))
  if at < len(text):
    text = text[:at] + str(value)[:50] + text[at + 1 :]
  (tokenizer / "tokenizer_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
  tokenizer_files._load.cache_clear()
  one_line(lambda: tokenizer_files.load_tokenizer(str(tokenizer / "tokenizer.json")).facts())
