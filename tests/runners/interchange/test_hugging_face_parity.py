"""Law 9: what transformers' own models compute from a checkpoint, an imported one computes too,
and exported again it is bit-identical.
"""

import json
from pathlib import Path

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np
import pytest

_CURE = "is not installed: pip install 'strata[parity]'"
torch = pytest.importorskip("torch", reason=f"PyTorch {_CURE}")
transformers = pytest.importorskip("transformers", reason=f"transformers {_CURE}")
pytest.importorskip("safetensors", reason=f"safetensors {_CURE}")

from experiments.command_line import main  # noqa: E402
from layers.chunked_cross_entropy import whole_logits  # noqa: E402
from layers.tokens import Tokens  # noqa: E402
from runners.checkpoints.listing import find_step_folder  # noqa: E402
from runners.checkpoints.reading import restore_params  # noqa: E402
from runners.configs.files import load  # noqa: E402
from runners.interchange.imported_run import param_shapes  # noqa: E402

LENGTH = 96  # beyond the original length of the scaled ones
BOTH = {"vocab_size": 130, "attention_dropout": 0.0}
LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def llama(**fields):
  rope = {"rope_theta": 10_000.0, **fields.pop("rope", {"rope_type": "default"})}
  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=130,
      hidden_size=48,
      intermediate_size=80,
      num_hidden_layers=3,
      num_attention_heads=6,
      max_position_embeddings=256,
      rope_parameters=rope,
      **fields,
    )
  )


def gpt2(**fields):
  return transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      **{"vocab_size": 130, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128},
      bos_token_id=0,
      eos_token_id=0,
      **fields,
    )
  )


MODELS = {
  "llama": lambda: llama(),
  "llama with grouped heads": lambda: llama(num_key_value_heads=2),
  "llama 3 scaling": lambda: llama(num_key_value_heads=2, rope=LLAMA3),
  "llama yarn scaling": lambda: llama(rope=YARN),
  "llama linear scaling": lambda: llama(rope={"rope_type": "linear", "factor": 3.0}),
  "llama tied": lambda: llama(tie_word_embeddings=True),
  "llama with biases and wide heads": lambda: llama(
    attention_bias=True, mlp_bias=True, head_dim=16
  ),
  "gpt2": lambda: gpt2(),
  "gpt2 of another width and activation": lambda: gpt2(n_inner=72, activation_function="gelu"),
}


@pytest.fixture(params=MODELS)
def model(request):
  torch.manual_seed(0)
  model = MODELS[request.param]().eval()
  with torch.no_grad():
    for parameter in model.parameters():  # biases and norms too; larger than at first
      parameter += 0.1 * torch.randn_like(parameter)
  return model


def logits_of(workdir, ids):
  """Of an imported run, in float32."""
  config = load(workdir).config
  model = fdl.build(config.model)
  shapes = param_shapes(model)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=place), shapes
  )
  params = restore_params(find_step_folder(str(workdir)), abstract)
  positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
  tokens = Tokens(jnp.asarray(positions), jnp.ones_like(ids), jnp.arange(len(ids)))
  return np.asarray(whole_logits(model.apply({"params": params}, jnp.asarray(ids), tokens)))


def their_logits(model, ids):
  with torch.no_grad():
    return model(torch.asarray(ids)).logits.numpy()


def tensors_of(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
  """Name -> dtype, shape, bytes of every tensor in a folder."""
  found = {}
  for file in folder.glob("*.safetensors"):
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
      if name != "__metadata__":
        first, last = entry["data_offsets"]
        found[name] = (entry["dtype"], entry["shape"], data[start + first : start + last])
  return found


def test_an_imported_model_gives_the_logits_and_is_exported_bit_identical(model, tmp_path):
  theirs, run, again = tmp_path / "theirs", tmp_path / "run", tmp_path / "again"
  model.save_pretrained(theirs)
  ids = np.random.default_rng(0).integers(0, 130, (2, LENGTH)).astype(np.int64)
  want = their_logits(model, ids)
  assert main(["runner", "import", f"--from={theirs}", f"--workdir={run}"]) == 0
  np.testing.assert_allclose(logits_of(run, ids), want, atol=1e-4, rtol=0)
  assert main(["runner", "export", f"--workdir={run}", f"--to={again}"]) == 0
  assert tensors_of(again) == tensors_of(theirs)
  loaded = transformers.AutoModelForCausalLM.from_pretrained(again).eval()
  np.testing.assert_array_equal(their_logits(loaded, ids), want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_come_back_as_they_were(dtype, tmp_path):
  theirs, run, again = tmp_path / "theirs", tmp_path / "run", tmp_path / "again"
  model = llama(num_key_value_heads=2).to(getattr(torch, dtype))
  model.save_pretrained(theirs, max_shard_size="40KB")
  assert len(list(theirs.glob("*.safetensors"))) > 1
  assert main(["runner", "import", f"--from={theirs}", f"--workdir={run}"]) == 0
  assert main(["runner", "export", f"--workdir={run}", f"--to={again}"]) == 0
  assert tensors_of(again) == tensors_of(theirs)
  assert json.loads((again / "config.json").read_text())["dtype"] == dtype
