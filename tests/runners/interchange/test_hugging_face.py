"""A Hugging Face folder becomes a run and a run such a folder, array for array; what does not
fit is refused with the fields and tensors that differ. No PyTorch: files are made with numpy.
"""

import importlib.util
import json
import sys

import fiddle as fdl
import numpy as np
import pytest

from experiments.registry import find
from layers.errors import UserError
from runners.checkpoints.listing import find_step_folder
from runners.checkpoints.reading import open_step, read_arrays
from runners.configs.files import load
from runners.interchange.params_reading import read_params
from runners.interchange.tensor_names import TENSORS, Tensor
from tests.runners.their_folder import (
  LLAMA,
  SHAPES,
  D,
  F,
  H,
  K,
  L,
  N,
  V,
  assert_same,
  read_all,
  runner,
  write_folder,
)

needs_safetensors = pytest.mark.skipif(
  importlib.util.find_spec("safetensors") is None,
  reason="safetensors is not installed: pip install 'strata[hf]'",
)

EVERY_TENSOR = {tensor.name: tensor for family in TENSORS.values() for tensor in family}


@pytest.mark.parametrize("tensor", EVERY_TENSOR.values(), ids=EVERY_TENSOR)
def test_splitting_is_the_inverse_of_joining(tensor: Tensor):
  shape = {0: (4, 2), 1: (6, 4, 2), 2: (4, 2, 6)}[tensor.inputs]
  parts = [np.random.default_rng(n).normal(size=shape) for n in range(len(tensor.parts))]
  whole = tensor.join(parts)
  assert whole.shape == tensor.shape([shape] * len(parts))
  for part, again in zip(parts, tensor.split(whole, [shape] * len(parts)), strict=True):
    np.testing.assert_array_equal(part, again)


@needs_safetensors
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("max_bytes", [10**9, 500])
def test_tensors_are_read_as_they_were_written(dtype, max_bytes, tmp_path):
  tensors = write_folder(tmp_path / "theirs", dtype=dtype, max_bytes=max_bytes)
  files = list((tmp_path / "theirs").glob("*.safetensors"))
  assert all(file.stat().st_size < 12_000 for file in files) if max_bytes == 500 else files
  assert (len(files) == 1) == (max_bytes > 500)
  assert_same(read_all(tmp_path / "theirs"), tensors)


@needs_safetensors
@pytest.mark.parametrize("scanned", [True, False])
def test_a_folder_comes_back_as_it_was(scanned, tmp_path):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  tensors = write_folder(theirs, dtype="bfloat16", attention_bias=False)
  more = [] if scanned else [f"--set=model.scan_layers={scanned}"]
  assert runner("import", f"--from={theirs}", f"--workdir={run}", *more) == 0
  step = open_step(find_step_folder(str(run)))
  layers = "stack/layers" if scanned else "stack/layers/1"
  name = f"params/{layers}/attention/key/kernel"
  key = read_arrays(step, [name])[name]
  want = tensors["model.layers.1.self_attn.k_proj.weight"].T.reshape(D, K, H)
  np.testing.assert_array_equal(key[1] if scanned else key, want)
  assert runner("export", f"--workdir={run}", f"--to={again}") == 0
  assert_same(read_all(again), tensors)
  config = json.loads((again / "config.json").read_text())
  assert {name: config[name] for name in LLAMA} == LLAMA and config["dtype"] == "bfloat16"
  assert (again / "tokenizer.json").is_file()


@needs_safetensors
def test_an_experiment_of_another_shape_is_refused_with_both_numbers(tmp_path, capsys):
  write_folder(tmp_path / "theirs")
  arguments = ("import", f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  code, err = runner(*arguments, "--exp=lwm.TextLlamaDebug", capsys=capsys)
  assert code == 2 and len(err.splitlines()) == 1
  assert f"model.model_dim: {D} there, 256 here" in err
  assert f"model.block.attention.num_kv_heads: {K} there, 2 here" not in err  # equal
  assert f"model.block.attention.num_heads: {N} there, 2 here" in err
  assert not (tmp_path / "run").exists()
  code, err = runner(*arguments, "--exp=gpt2.Nano", capsys=capsys)
  assert code == 2 and "model.norm: RMSNorm there, LayerNorm here" in err


@needs_safetensors
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model.norm.weight": None}, "model.norm.weight is missing there"),
    ({"model.norm.weight": (D + 1,)}, f"model.norm.weight: ({D + 1},) there, ({D},) here"),
    ({"model.more.weight": (3,)}, "model.more.weight (3,) is not used here"),
    ({"model.layers.0.self_attn.rotary_emb.inv_freq": (1,)}, None),  # a buffer
  ],
)
def test_tensors_have_to_be_those_of_the_model(change, message, tmp_path, capsys):
  shapes = {name: x for name, x in {**SHAPES, **change}.items() if x is not None}
  write_folder(tmp_path / "theirs", shapes)
  run, arguments = tmp_path / "run", ("import", f"--from={tmp_path / 'theirs'}")
  code, err = runner(*arguments, f"--workdir={run}", capsys=capsys)
  if message is None:
    assert (code, err) == (0, "")
  else:
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not (run / "config.json").exists()


@needs_safetensors
@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"model_type": "bert"}, "model_type 'bert' is not known"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
    ({"hidden_act": "relu6"}, "activation 'relu6'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
  ],
)
def test_what_a_model_here_cannot_be_is_refused(config, message, tmp_path, capsys):
  write_folder(tmp_path / "theirs", **config)
  arguments = (f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  code, err = runner("import", *arguments, capsys=capsys)
  assert code == 2 and message in err and len(err.splitlines()) == 1


@needs_safetensors
def test_what_old_files_and_configs_have_or_lack_changes_nothing(tmp_path):
  from safetensors.numpy import save_file

  theirs, run = tmp_path / "theirs", tmp_path / "run"
  tensors = write_folder(theirs, pretraining_tp=2)
  buffers = {"h.0.attn.bias": np.ones((1, 4), bool), "h.0.attn.masked_bias": np.zeros(1, "u1")}
  save_file(tensors | buffers, theirs / "model.safetensors")
  config = json.loads((theirs / "config.json").read_text())
  del config["rms_norm_eps"]
  (theirs / "config.json").write_text(json.dumps(config))
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  assert load(run).config.model.norm.epsilon == 1e-6


@needs_safetensors
def test_an_override_that_theirs_contradicts_is_refused_and_not_swallowed(tmp_path, capsys):
  write_folder(tmp_path / "theirs")
  arguments = ("import", f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  more = ("--set=model.block.attention.rotary.theta=1e6", f"--set=model.num_layers={L}")
  code, err = runner(*arguments, *more, capsys=capsys)
  assert code == 2 and err.count("there") == 1
  assert "rotary.theta: 10000.0 there, 1000000.0 here; leave it out here" in err


@needs_safetensors
def test_weights_that_are_no_floats_are_refused(tmp_path, capsys):
  from safetensors.numpy import save_file

  tensors = write_folder(tmp_path / "theirs")
  tensors["model.norm.weight"] = np.ones(D, np.uint8)
  save_file(tensors, tmp_path / "theirs" / "model.safetensors")
  arguments = (f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  code, err = runner("import", *arguments, capsys=capsys)
  assert code == 2 and "model.norm.weight: uint8 there; known are float32" in err


@needs_safetensors
def test_a_truncated_file_is_named(tmp_path, capsys):
  write_folder(tmp_path / "theirs")
  file = tmp_path / "theirs" / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-10])
  arguments = (f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  code, err = runner("import", *arguments, capsys=capsys)
  assert code == 2 and str(file) in err and len(err.splitlines()) == 1


@needs_safetensors
def test_an_imported_run_is_evaluated_but_not_gone_on_with(tmp_path, capsys):
  theirs, run = tmp_path / "theirs", tmp_path / "run"
  write_folder(theirs)
  small = ("--set=batch_size=4", "--set=microbatch_size=None", "--set=sequence_length=16")
  few = "--set=eval_data['validation'].num_batches=1"
  assert runner("import", f"--from={theirs}", f"--workdir={run}", *small, few) == 0
  capsys.readouterr()
  assert runner("eval", f"--workdir={run}") == 0
  assert "step 0  eval/validation/loss=" in capsys.readouterr().out
  code, err = runner(f"--config={run / 'config.json'}", f"--workdir={run}", capsys=capsys)
  assert code == 2 and f"--set=init_from={run}" in err


@needs_safetensors
@pytest.mark.slow
def test_a_run_begins_with_a_folder_at_another_theta_and_is_exported_like_it(tmp_path, capsys):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  tensors = write_folder(theirs)
  model = {"num_layers": L, "model_dim": D, "vocab_size": V, "block.attention.num_heads": N}
  model |= {"block.attention.num_kv_heads": K, "block.feed_forward.hidden_dim": F}
  model |= {"block.attention.rotary.theta": 1e6}
  fields = {f"model.{path}": value for path, value in model.items()}
  fields |= {"train_data": "@tests.runners.toy_run:ToyText()", "eval_data": {}, "num_steps": 1}
  fields |= {"batch_size": 1, "microbatch_size": None}
  fields |= {"sequence_length": 16, "writers": [], "optimizer.frozen": ["."]}  # nothing moves
  sets = [f"--set={path}={value}" for path, value in fields.items()]
  begin = ("--exp=lwm.TextLlamaDebug", *sets, f"--workdir={run}")
  assert runner(*begin, f"--set=init_from={theirs}") == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[:3] == [
    "init_from   model.block.attention.rotary.theta: 10000.0 there, 1000000.0 here",
    f"init_from   {theirs}",
    "  loaded    12",
  ]
  assert "    params/stack/layers/attention/key/kernel  2x8x2x2" in lines
  assert runner("export", f"--workdir={run}", f"--to={again}") == 0
  assert_same(read_all(again), tensors)
  config = json.loads((again / "config.json").read_text())
  assert (config["rope_theta"], config["eos_token_id"]) == (1e6, 2)
  assert (again / "tokenizer.json").is_file()


@needs_safetensors
def test_a_folder_or_run_that_is_there_is_not_written_over(tmp_path, capsys):
  theirs, run = tmp_path / "theirs", tmp_path / "run"
  write_folder(theirs)
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  code, err = runner("import", f"--from={theirs}", f"--workdir={run}", capsys=capsys)
  assert code == 2 and "holds a run already" in err
  code, err = runner("export", f"--workdir={run}", f"--to={theirs}", capsys=capsys)
  assert code == 2 and "holds a model already" in err


def test_without_the_package_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "safetensors", None)
  write_folder(tmp_path / "theirs")
  arguments = (f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  code, err = runner("import", *arguments, capsys=capsys)
  assert code == 2 and "pip install 'strata[hf]'" in err and len(err.splitlines()) == 1


def test_another_number_of_learned_positions_is_refused_with_its_cure(tmp_path):
  theirs = {"model_type": "gpt2", "vocab_size": 259, "n_embd": 128, "n_layer": 4, "n_head": 4}
  config = find("gpt2.Nano").experiment().config().model
  config.vocab_size, config.max_positions = 259, 64
  (tmp_path / "config.json").write_text(json.dumps({**theirs, "n_positions": 128}))
  with pytest.raises(
    UserError, match=r"for 128 tokens.*for 64: --set=model.max_positions=128$"
  ):
    read_params(tmp_path, fdl.build(config), None, None)
  (tmp_path / "config.json").write_text(json.dumps({**theirs, "n_positions": 32}))
  with pytest.raises(UserError, match=r"max_positions=32, and sequence_length at most 32$"):
    read_params(tmp_path, fdl.build(config), None, None)
