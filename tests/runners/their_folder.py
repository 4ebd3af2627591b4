"""A small LLaMA of theirs, written with numpy; and the command line on it."""

import json

import ml_dtypes
import numpy as np

from experiments.command_line import main
from runners.interchange.safetensors_files import Described, TensorFolder, write_tensors

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
  with TensorFolder(folder) as tensors:
    return {name: tensors.read(name) for name in tensors.tensors}


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert (got[name].dtype, got[name].shape) == (x.dtype, x.shape), name
    assert got[name].tobytes() == x.tobytes(), name
