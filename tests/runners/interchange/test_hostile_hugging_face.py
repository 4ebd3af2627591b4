"""Whatever a Hugging Face folder holds, a user sees one line, and nothing else is read."""

import json
import os

import pytest

from layers.errors import UserError
from runners.generation.prompt_tokens import prompt_tokens
from tasks.jsonl import Jsonl
from tests.runners.their_folder import LLAMA, runner, write_folder

pytest.importorskip(
  "safetensors", reason="safetensors is not installed: pip install 'strata[hf]'"
)


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
  monkeypatch.setattr(
    "runners.interchange.hugging_face_import.param_shapes", lambda _: pytest.fail("made")
  )
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
  monkeypatch.setattr("runners.interchange.params_reading.MAX_COPIED_BYTES", 2000)
  (theirs / "vocab.txt").write_text("x" * 2001)
  err = refused(capsys, theirs, tmp_path / "run")
  assert "have more than 2,000 bytes, the largest" in err and "vocab.txt" in err


def test_a_folder_is_not_copied_through_a_link(theirs, tmp_path, capsys):
  run = tmp_path / "run"
  run.mkdir()
  (tmp_path / "elsewhere").mkdir()
  (run / "hugging_face").symlink_to(tmp_path / "elsewhere")
  assert "through which nothing is written" in refused(capsys, theirs, run)
  assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("end", ["x", [1, "2"], -1, 1.5, {"a": 1}, True])
def test_the_ids_that_end_a_text_are_ids(end, theirs, tmp_path):
  (theirs / "tokenizer.json").unlink()
  (theirs / "config.json").write_text(json.dumps({**LLAMA, "eos_token_id": end}))
  run = tmp_path / "run"
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  with pytest.raises(UserError, match="eos_token_id"):
    prompt_tokens(Jsonl(), run, None)


def test_an_export_that_cannot_be_written_is_one_line(theirs, tmp_path, capsys):
  run, file = tmp_path / "run", tmp_path / "file"
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  file.write_text("mine")
  for to in (file, file / "below"):
    code, err = runner("export", f"--workdir={run}", f"--to={to}", capsys=capsys)
    assert code == 2 and "cannot write into" in err and len(err.splitlines()) == 1
  assert file.read_text() == "mine"
