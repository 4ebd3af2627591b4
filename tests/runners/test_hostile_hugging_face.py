"""Whatever a Hugging Face folder holds, a user sees one line, and nothing else is read."""

import copy
import json
import os
import string

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from input_pipelines.foreign_json import Document
from layers.errors import UserError
from runners.hugging_face_config import fields
from runners.hugging_face_reading import ParamsReader, check_sizes
from runners.safetensors_files import TensorFolder
from tests.runners.their_folder import LLAMA, L, runner, write_folder

pytest.importorskip(
  "safetensors", reason="safetensors is not installed: pip install 'strata[hf]'"
)

MANY = hypothesis.settings(
  derandomize=True,
  deadline=None,
  database=None,
  max_examples=10_000,
  suppress_health_check=list(hypothesis.HealthCheck),
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
@MANY
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
@MANY
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
@MANY
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


def refused(capsys, folder, run, *arguments):
  """What `runner import` says of a folder that it does not take, of which nothing is left."""
  arguments = ("import", f"--from={folder}", f"--workdir={run}", *arguments)
  code, err = runner(*arguments, capsys=capsys)
  assert code == 2 and len(err.splitlines()) == 1 and len(err) < 1000, err
  assert not (run / "config.json").exists() and not (run / "checkpoints").exists()
  return err


@pytest.fixture
def theirs(tmp_path):
  write_folder(tmp_path / "theirs")
  return tmp_path / "theirs"


@pytest.mark.parametrize("name", ["extra.json", "model.safetensors", "config.json", "x.txt"])
@pytest.mark.parametrize("to", ["/etc/passwd", "../outside", "/dev/zero"])
def test_a_link_out_of_the_folder_is_not_followed(name, to, theirs, tmp_path, capsys):
  (tmp_path / "outside").write_text("{}")
  (theirs / name).unlink(missing_ok=True)
  (theirs / name).symlink_to(to)
  err = refused(capsys, theirs, tmp_path / "run")
  assert "is a link to" in err and "put a copy of the file there" in err


@pytest.mark.parametrize("name", ["extra.json", "model.safetensors", "config.json"])
def test_a_pipe_is_no_file(name, theirs, tmp_path, capsys):
  (theirs / name).unlink(missing_ok=True)
  os.mkfifo(theirs / name)
  assert "is no file" in refused(capsys, theirs, tmp_path / "run")


def test_a_link_that_leads_nowhere_and_a_folder_are_no_tokenizer(theirs, tmp_path, capsys):
  (theirs / "x.json").mkdir()
  assert runner("import", f"--from={theirs}", f"--workdir={tmp_path / 'run'}") == 0
  assert not (tmp_path / "run" / "hugging_face" / "x.json").exists()
  (theirs / "y.json").symlink_to("nowhere")
  assert "y.json" in refused(capsys, theirs, tmp_path / "again")


def test_links_within_the_cache_of_the_hub_are_followed(theirs, tmp_path):
  cache = tmp_path / "models--a--b"
  snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  for number, file in enumerate(sorted(theirs.iterdir())):
    file.rename(blobs / f"{number}")
    (snapshot / file.name).symlink_to(f"../../blobs/{number}")
  run = tmp_path / "run"
  assert runner("import", f"--from={snapshot}", f"--workdir={run}") == 0
  copied = run / "hugging_face" / "tokenizer.json"
  assert copied.read_text() == "{}" and not copied.is_symlink()


def test_a_link_in_a_run_is_not_exported(theirs, tmp_path, capsys):
  run, to = tmp_path / "run", tmp_path / "to"
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  (run / "hugging_face" / "extra.json").symlink_to("/etc/passwd")
  code, err = runner("export", f"--workdir={run}", f"--to={to}", capsys=capsys)
  assert code == 2 and "is a link to" in err and not to.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../x"])
def test_an_index_names_files_of_its_folder(name, theirs, tmp_path, capsys):
  (theirs / "model.safetensors").rename(tmp_path / "outside.safetensors")
  index = {"weight_map": {"model.norm.weight": name}}
  (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
  assert "which is not within that folder" in refused(capsys, theirs, tmp_path / "run")


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"num_hidden_layers": 3}, "says 3 layers, and the tensors beside it are of 2"),
    ({"num_hidden_layers": 999}, "says 999 layers"),
    ({"num_hidden_layers": 10**6}, "at most 1,000"),
    ({"vocab_size": 10**9}, "model.embed_tokens.weight is (260, 8)"),
    ({"vocab_size": 10**15}, "vocab_size is 1000000000000000"),
    ({"hidden_size": 10**8}, "(260, 100000000)"),
    ({"intermediate_size": 10**9}, "mlp.gate_proj.weight is (12, 8)"),
    ({"num_attention_heads": 4 * 10**6, "head_dim": 2}, "self_attn.q_proj.weight is (8, 8)"),
    ({"head_dim": 10**7}, "self_attn.q_proj.weight is (8, 8)"),
  ],
)
def test_sizes_are_compared_with_the_tensors_before_a_model_is_made(
  change, said, theirs, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr("runners.hugging_face_import.param_shapes", lambda _: pytest.fail("made"))
  (theirs / "config.json").write_text(json.dumps({**LLAMA, **change}))
  assert said in refused(capsys, theirs, tmp_path / "run")


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"num_hidden_layers": None}, "num_hidden_layers is null"),
    ({"num_hidden_layers": "48"}, 'num_hidden_layers is "48"'),
    ({"num_hidden_layers": 3.0}, "num_hidden_layers is 3.0"),
    ({"num_hidden_layers": True}, "num_hidden_layers is true"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads is 3, which does not divide the 4"),
    (
      {"num_attention_heads": 3, "num_key_value_heads": 3},
      "which num_attention_heads=3 does not divide",
    ),
    ({"hidden_act": ["silu"]}, 'hidden_act is ["silu"]'),
    ({"rms_norm_eps": "1e-6"}, 'rms_norm_eps is "1e-6"'),
    ({"tie_word_embeddings": "no"}, 'tie_word_embeddings is "no"'),
    ({"model_type": ["llama"]}, 'model_type is ["llama"]'),
    ({"per_layer_config": {"0": {}}}, "per_layer_config is"),
  ],
)
def test_a_wrong_type_is_named_with_its_field(change, said, theirs, tmp_path, capsys):
  (theirs / "config.json").write_text(json.dumps({**LLAMA, **change}))
  assert said in refused(capsys, theirs, tmp_path / "run")


@pytest.mark.parametrize("content", [b"[]", b"null", b"[" * 10**5, b"\xff\xff", b"", b"{}"])
def test_a_config_that_is_no_object_is_refused(content, theirs, tmp_path, capsys):
  (theirs / "config.json").write_bytes(content)
  assert str(theirs / "config.json") in refused(capsys, theirs, tmp_path / "run")


def test_only_what_computes_the_same_is_suggested_for_an_activation(theirs, tmp_path, capsys):
  (theirs / "config.json").write_text(json.dumps({**LLAMA, "hidden_act": "relu"}))
  err = refused(capsys, theirs, tmp_path / "run")
  assert "the activation 'relu' is none that models here compute" in err
  assert "did you mean" not in err


def test_a_byte_order_mark_is_read_over(theirs, tmp_path):
  file = theirs / "config.json"
  file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
  assert runner("import", f"--from={theirs}", f"--workdir={tmp_path / 'run'}") == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_that(name, theirs, tmp_path, capsys):
  pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
  (theirs / name).write_text(pointer)
  assert "run `git lfs pull`" in refused(capsys, theirs, tmp_path / "run")


def test_too_large_a_file_is_not_copied(theirs, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr("runners.hugging_face_reading.MAX_COPIED_BYTES", 2000)
  (theirs / "vocab.txt").write_text("x" * 2001)
  err = refused(capsys, theirs, tmp_path / "run")
  assert "vocab.txt has more than 2,000 bytes, and is not copied" in err
