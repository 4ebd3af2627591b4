"""Rotary positions turn as transformers turns them, however a config.json writes them down.

Each shape is the config.json of a tiny LLaMA, read by transformers from the same folder.
"""

import json

import numpy as np
import pytest

from input_pipelines.foreign_json import Document
from layers.errors import UserError
from runners.interchange.hugging_face_rope import read_rotary, their_scaling
from tests.runners.their_folder import runner

_CURE = "is not installed: pip install 'strata[parity]'"
torch = pytest.importorskip("torch", reason=f"PyTorch {_CURE}")
transformers = pytest.importorskip("transformers", reason=f"transformers {_CURE}")
pytest.importorskip("safetensors", reason=f"safetensors {_CURE}")

from tests.runners.interchange.test_hugging_face_parity import logits_of, their_logits  # noqa: E402

LENGTH = 200
SIZES = {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 60,
  "hidden_size": 32,
  "intermediate_size": 16,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "max_position_embeddings": 256,
}
DEFAULT = {"rope_type": "default", "rope_theta": 10_000.0}
LINEAR = {"rope_type": "linear", "factor": 3}
LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
BARE_YARN = {"rope_type": "yarn", "factor": 4.0}


def scaled(block, **beside):
  return {"rope_scaling": block, "rope_theta": 10_000.0, **beside}


SHAPES = {
  "nothing": {},
  "theta beside": {"rope_theta": 5e5},
  "no scaling": {"rope_scaling": None, "rope_theta": 500},
  "an empty block": {"rope_scaling": {}, "rope_parameters": {**DEFAULT, "rope_theta": 123.0}},
  "the new block": {"rope_parameters": DEFAULT},
  "theta within and beside": {"rope_parameters": DEFAULT, "rope_theta": 77.0},
  "theta in the old block": scaled({**LINEAR, "rope_theta": 99.0}),
  "linear": scaled(LINEAR),
  "linear by its old name": scaled({"type": "linear", "factor": 2.5}),
  "both names": scaled({"type": "linear", "rope_type": "default", "factor": 2.0}),
  "llama3": scaled(LLAMA3),
  "llama3, length beside": scaled(LLAMA3, original_max_position_embeddings=16),
  "llama3, no length": scaled(
    {k: v for k, v in LLAMA3.items() if not k.startswith("original")}
  ),
  "yarn": scaled(YARN),
  "yarn in the new block": {"rope_parameters": {**YARN, "rope_theta": 10_000.0}},
  "yarn beside a default": {"rope_parameters": DEFAULT, "rope_scaling": YARN},
  "yarn, said twice": {
    "rope_parameters": {**YARN, "rope_theta": 10_000.0},
    "rope_scaling": YARN,
    "rope_theta": 10_000.0,
  },
  "yarn, length beside": scaled(BARE_YARN, original_max_position_embeddings=64),
  "yarn, both lengths": scaled(YARN, original_max_position_embeddings=32),
  "yarn, no length": scaled(BARE_YARN),
  "yarn, factor null": scaled({**YARN, "factor": None}),
  "yarn, factor null, both lengths": scaled(
    {**YARN, "factor": None}, original_max_position_embeddings=32
  ),
  "yarn, shrinking": scaled({**YARN, "factor": 0.5}),
  "yarn, attention": scaled({**YARN, "attention_factor": 1.5}),
  "yarn, turns": scaled({**YARN, "beta_fast": 8, "beta_slow": 2.0}),
  "yarn, turns of 0": scaled({**YARN, "beta_fast": 0, "beta_slow": None}),
  "yarn, one pair": scaled({**YARN, "beta_fast": 1.2, "beta_slow": 1.0, "truncate": False}),
  "yarn, short": scaled({**YARN, "original_max_position_embeddings": 4}),
  "yarn, scales": scaled({**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}),
  "yarn, one scale": scaled({**YARN, "mscale": 0.7}),
  "yarn, scales and attention": scaled(
    {**YARN, "mscale": 0.7, "mscale_all_dim": 1, "attention_factor": 0.9}
  ),
  "yarn, not truncated": scaled({**YARN, "truncate": False}),
  "yarn, truncated by null": scaled({**YARN, "truncate": None}),
  "yarn, wide": scaled(YARN, head_dim=48),
}


@pytest.fixture(scope="module")
def model():
  """One model of random weights, each head wide and narrow, saved anew with every shape."""
  torch.manual_seed(0)
  of = lambda **more: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **more))
  models = {16: of(), 48: of(head_dim=48)}
  with torch.no_grad():
    for model in models.values():
      for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
  return models


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_frequencies_are_theirs(shape):
  config = {**SIZES, **shape}
  theta, scaling = read_rotary(Document(config, "config.json"))
  head_dim = config.get("head_dim", 16)
  theirs = transformers.LlamaConfig.from_dict(json.loads(json.dumps(config)))
  rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
  ours = theta ** -(np.arange(0, head_dim, 2) / head_dim)
  ours = ours if scaling is None else scaling.frequencies(theta, head_dim)
  np.testing.assert_allclose(ours, rotary.inv_freq.numpy(), rtol=2e-6, atol=0)
  magnitude = 1.0 if scaling is None else scaling.magnitude
  assert magnitude == pytest.approx(rotary.attention_scaling, rel=1e-12)
  # As it is exported.
  again = {"rope_theta": theta, "rope_scaling": their_scaling(scaling)}
  assert read_rotary(Document({**SIZES, **again}, "config.json"))[0] == theta
  (_, written) = read_rotary(Document({**SIZES, **again}, "config.json"))
  if scaling is not None:
    np.testing.assert_array_equal(written.frequencies(theta, head_dim), ours)
    assert written.magnitude == magnitude


RUN = ("theta within and beside", "linear", "llama3, length beside", "yarn beside a default")
RUN += ("yarn, both lengths", "yarn, factor null", "yarn, scales", "yarn, wide")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_logits_are_theirs(name, model, tmp_path):
  shape = SHAPES[name]
  theirs, run = tmp_path / "theirs", tmp_path / "run"
  model[shape.get("head_dim", 16)].save_pretrained(theirs)
  (theirs / "config.json").write_text(json.dumps({**SIZES, **shape}))
  loaded = transformers.AutoModelForCausalLM.from_pretrained(theirs).eval()
  ids = np.random.default_rng(0).integers(0, 60, (2, LENGTH)).astype(np.int64)
  assert runner("import", f"--from={theirs}", f"--workdir={run}") == 0
  np.testing.assert_allclose(logits_of(run, ids), their_logits(loaded, ids), atol=1e-4, rtol=0)


REFUSED = {
  "disagree": {"rope_parameters": {**DEFAULT, "rope_theta": 500.0}, "rope_scaling": YARN},
  "disagree; leave": {
    "rope_parameters": {**YARN, "rope_theta": 10_000.0},
    "rope_scaling": {"type": "default"},
  },
  "rope_type 'dynamic'": scaled({"rope_type": "dynamic", "factor": 2.0}),
  "rope_type 'longrope'": scaled({"type": "longrope", "short_factor": [1], "long_factor": [2]}),
  "partial_rotary_factor=0.5": scaled({**LINEAR, "partial_rotary_factor": 0.5}),
  "differs by kind of layer": {"rope_parameters": {"full_attention": DEFAULT}},
  "no 'factor'": scaled({"rope_type": "linear"}),
  "factor is null": scaled({**LLAMA3, "factor": None}),
  "factor is 0": scaled({**LINEAR, "factor": 0}),
  'factor is "4"': scaled({**YARN, "factor": "4"}),
  "has to be more than low_freq_factor": scaled({**LLAMA3, "high_freq_factor": 1.0}),
  'rope_theta is "x"': {"rope_theta": "x"},
  "rope_theta is 0.5": {"rope_theta": 0.5},
  "rope_theta is 1": scaled(YARN, rope_theta=1),
  "original_max_position_embeddings is 64.0": scaled(
    {**YARN, "original_max_position_embeddings": 64.0}
  ),
  "beta_fast is 0.5, and has to be more": scaled({**YARN, "beta_fast": 0.5, "beta_slow": 4}),
  "give a factor of inf": scaled(
    {**YARN, "mscale": 1e308, "mscale_all_dim": 1e-308, "factor": 1e9}
  ),
  "rope_scaling is [1]": {"rope_scaling": [1]},
  'rope_scaling is "linear"': {"rope_scaling": "linear"},
}


@pytest.mark.parametrize(("said", "shape"), REFUSED.items(), ids=REFUSED)
def test_what_no_model_here_computes_is_refused_in_one_line(said, shape):
  with pytest.raises(UserError) as error:
    read_rotary(Document({**SIZES, **shape}, "config.json"))
  assert said in str(error.value) and "\n" not in str(error.value)
