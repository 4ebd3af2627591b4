"""A Hugging Face folder becomes a run and a run such a folder, array for array; what does not
fit is refused with the fields and tensors that differ. No PyTorch: files are made with numpy.
"""

import importlib.util
import json
import sys

import ml_dtypes
import numpy as np
import pytest

from experiments.command_line import main
from runners.checkpoint_listing import find_step_folder
from runners.checkpoint_reading import open_step, read_arrays
from runners.hugging_face_names import TENSORS, Tensor
from runners.safetensors_files import Described, write_tensors

needs_safetensors = pytest.mark.skipif(
  importlib.util.find_spec("safetensors") is None,
  reason="safetensors is not installed: pip install 'strata[hf]'",
)

V, D, F, N, K, H, L = 260, 8, 12, 4, 2, 2, 2
LLAMA = {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": V,
  "hidden_size": D,
  "intermediate_size": F,
  "num_hidden_layers": L,
  "num_attention_heads": N,
  "num_key_value_heads": K,
  "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0,
  "eos_token_id": 2,
}
SHAPES = {
  "model.embed_tokens.weight": (V, D),
  "model.norm.weight": (D,),
  "lm_head.weight": (V, D),
}
for layer in range(L):
  SHAPES |= {
    f"model.layers.{layer}.{name}.weight": shape
    for name, shape in {
      "input_layernorm": (D,),
      "post_attention_layernorm": (D,),
      "self_attn.q_proj": (N * H, D),
      "self_attn.k_proj": (K * H, D),
      "self_attn.v_proj": (K * H, D),
      "self_attn.o_proj": (D, N * H),
      "mlp.gate_proj": (F, D),
      "mlp.up_proj": (F, D),
      "mlp.down_proj": (D, F),
    }.items()
  }


def write_folder(folder, shapes=SHAPES, dtype="float32", max_bytes=10**9, **config):
  """Their folder with random tensors, which are returned."""
  folder.mkdir()
  generator = np.random.default_rng(0)
  dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
  tensors = {name: generator.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
  described = {name: Described(x.shape, x.dtype) for name, x in tensors.items()}
  write_tensors(folder, described, tensors.__getitem__, max_bytes)
  (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
  (folder / "tokenizer.json").write_text("{}")
  return tensors


def runner(*arguments, capsys=None):
  """The exit code, and what went to stderr where that is captured."""
  code = main(["runner", *map(str, arguments)])
  return (code, capsys.readouterr().err) if capsys else code


def read_all(folder):
  from runners.safetensors_files import TensorFolder

  with TensorFolder(folder) as tensors:
    return {name: tensors.read(name) for name in tensors.tensors}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert (got[name].dtype, got[name].shape) == (x.dtype, x.shape), name
    assert got[name].tobytes() == x.tobytes(), name


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
def test_a_dtype_may_be_asked_for(tmp_path):
  theirs, run, again = (tmp_path / name for name in ("theirs", "run", "again"))
  tensors = write_folder(theirs)
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  assert runner("export", f"--workdir={run}", f"--to={again}", "--dtype=bfloat16") == 0
  assert_same(read_all(again), {n: x.astype(ml_dtypes.bfloat16) for n, x in tensors.items()})


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
    ({"rms_norm_eps": 1e-6, "pretraining_tp": 2}, "pretraining_tp=2"),
  ],
)
def test_what_a_model_here_cannot_be_is_refused(config, message, tmp_path, capsys):
  write_folder(tmp_path / "theirs", **config)
  arguments = (f"--from={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'run'}")
  code, err = runner("import", *arguments, capsys=capsys)
  assert code == 2 and message in err and len(err.splitlines()) == 1


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
