"""config.json of Hugging Face and the fields of our model that say the same, both ways.

A field is named by its path below `model`, as in `--set=model.block.attention.num_heads=8`.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fiddle as fdl
import flax.linen as nn

from layers.attention import Attention
from layers.block import Block
from layers.errors import UserError
from layers.feed_forward import FeedForward, GatedFeedForward, gelu_exact, gelu_tanh
from layers.masks import causal_mask
from layers.normalization import LayerNorm, RMSNorm
from layers.rotary import LinearScaling, Llama3Scaling, Rotary, YarnScaling
from layers.suggestions import did_you_mean
from runners.config_fields import as_node
from runners.config_tree import format_value

CONFIG = "config.json"

# Which of theirs is called what; the first name of a function is the one that is written.
_ACTIVATIONS: Mapping[str, Callable] = {
  "silu": nn.silu,
  "swish": nn.silu,
  "gelu_new": gelu_tanh,
  "gelu_pytorch_tanh": gelu_tanh,
  "gelu": gelu_exact,
}

# What the parts of a model have to be.
_PARTS: Mapping[str, Mapping[str, type]] = {
  "llama": {
    "norm": RMSNorm,
    "block": Block,
    "block.norm": RMSNorm,
    "block.attention": Attention,
    "block.attention.rotary": Rotary,
    "block.feed_forward": GatedFeedForward,
  },
  "gpt2": {
    "norm": LayerNorm,
    "block": Block,
    "block.norm": LayerNorm,
    "block.attention": Attention,
    "block.attention.rotary": type(None),
    "block.feed_forward": FeedForward,
  },
}

# A later stage of training may change these: they are of no array's shape.
MAY_CHANGE = (
  "block.attention.mask",
  "block.attention.rotary.theta",
  "block.attention.rotary.scaling",
)

_ABSENT = "<no such field>"


def is_folder_of_theirs(path: str | Path) -> bool:
  """Whether `path` is a folder whose config.json is Hugging Face's, not that of a run."""
  file = Path(path) / CONFIG
  try:
    return "model_type" in json.loads(file.read_text())
  except (OSError, ValueError, TypeError):
    return False


def read_config(folder: str | Path) -> dict[str, Any]:
  """Their config.json, of a family that is known here.

  Raises:
    UserError: there is none, it is damaged, or the family is not known.
  """
  file = Path(folder) / CONFIG
  try:
    config = json.loads(file.read_text(encoding="utf-8"))
    model_type = config["model_type"]
  except OSError as error:
    raise UserError(f"cannot read {file}: {error.strerror or error}") from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{file} is no config.json of Hugging Face's (no model_type)") from error
  if model_type not in _PARTS:
    cure = did_you_mean(str(model_type), _PARTS)
    raise UserError(f"{file}: the model_type {model_type!r} is not known here: {cure}")
  return config


def fields(theirs: Mapping[str, Any]) -> dict[str, Any]:
  """Path -> value of every field of our model that their config determines.

  Raises:
    UserError: it asks for something that our model cannot be.
  """
  try:
    return {"llama": _llama_fields, "gpt2": _gpt2_fields}[theirs["model_type"]](theirs)
  except KeyError as error:
    raise UserError(f"their config.json has no {error.args[0]!r}") from error


def _llama_fields(theirs: Mapping[str, Any]) -> dict[str, Any]:
  # pretraining_tp, of old releases, says in how many parts products are added up: rounding.
  _refuse(theirs, {"partial_rotary_factor": 1.0})
  heads, epsilon = theirs["num_attention_heads"], theirs.get("rms_norm_eps", 1e-6)
  theta, scaling = _rotary(theirs)
  return {
    "num_layers": theirs["num_hidden_layers"],
    "model_dim": theirs["hidden_size"],
    "vocab_size": theirs["vocab_size"],
    "learned_positions": False,
    "tied_head": theirs.get("tie_word_embeddings", False),
    "norm.epsilon": epsilon,
    "block.norm.epsilon": epsilon,
    "block.attention.num_heads": heads,
    "block.attention.num_kv_heads": theirs.get("num_key_value_heads") or heads,
    "block.attention.head_dim": theirs.get("head_dim") or theirs["hidden_size"] // heads,
    "block.attention.use_bias": theirs.get("attention_bias", False),
    "block.attention.mask": causal_mask,
    "block.attention.rotary.theta": theta,
    "block.attention.rotary.scaling": scaling,
    "block.feed_forward.hidden_dim": theirs["intermediate_size"],
    "block.feed_forward.activation": _activation(theirs.get("hidden_act", "silu")),
    "block.feed_forward.use_bias": theirs.get("mlp_bias", False),
  }


def _gpt2_fields(theirs: Mapping[str, Any]) -> dict[str, Any]:
  _refuse(
    theirs,
    {
      "scale_attn_weights": True,
      "scale_attn_by_inverse_layer_idx": False,
      "add_cross_attention": False,
    },
  )
  heads, width = theirs["n_head"], theirs["n_embd"]
  epsilon = theirs.get("layer_norm_epsilon", 1e-5)
  return {
    "num_layers": theirs["n_layer"],
    "model_dim": width,
    "vocab_size": theirs["vocab_size"],
    "max_positions": theirs.get("n_positions", 1024),
    "learned_positions": True,
    "tied_head": theirs.get("tie_word_embeddings", True),
    "norm.epsilon": epsilon,
    "norm.use_bias": True,
    "block.norm.epsilon": epsilon,
    "block.norm.use_bias": True,
    "block.attention.num_heads": heads,
    "block.attention.num_kv_heads": heads,
    "block.attention.head_dim": width // heads,
    "block.attention.use_bias": True,
    "block.attention.mask": causal_mask,
    "block.feed_forward.hidden_dim": theirs.get("n_inner") or 4 * width,
    "block.feed_forward.activation": _activation(theirs.get("activation_function", "gelu_new")),
    "block.feed_forward.use_bias": True,
  }


def _refuse(theirs: Mapping[str, Any], only: Mapping[str, Any]) -> None:
  for name, value in only.items():
    if theirs.get(name, value) != value:
      raise UserError(f"their config.json has {name}={theirs[name]!r}; here it can be {value}")


def _activation(name: str) -> Callable:
  if name not in _ACTIVATIONS:
    raise UserError(f"their activation {name!r}: {did_you_mean(name, _ACTIVATIONS)}")
  return _ACTIVATIONS[name]


def _rotary(theirs: Mapping[str, Any]) -> tuple[float, Any]:
  """Theta and scaling, in the form of transformers 5 (rope_parameters) or of those before."""
  rope = {**(theirs.get("rope_scaling") or {}), **(theirs.get("rope_parameters") or {})}
  theta = float(rope.get("rope_theta") or theirs.get("rope_theta") or 10_000.0)
  kind = rope.get("rope_type") or rope.get("type") or "default"
  _refuse(rope, {"partial_rotary_factor": 1.0})
  if kind == "default":
    return theta, None
  _refuse(rope, {"truncate": True, "mscale": None, "mscale_all_dim": None})
  original = rope.get("original_max_position_embeddings")
  original = original or theirs.get("max_position_embeddings", 2048)
  if kind == "linear":
    return theta, LinearScaling(factor=rope["factor"])
  if kind == "llama3":
    return theta, Llama3Scaling(
      factor=rope["factor"],
      low_turns=rope["low_freq_factor"],
      high_turns=rope["high_freq_factor"],
      original_length=original,
    )
  if kind == "yarn":
    return theta, YarnScaling(
      factor=rope["factor"],
      original_length=original,
      fast_turns=rope.get("beta_fast") or 32.0,
      slow_turns=rope.get("beta_slow") or 1.0,
      attention_factor=rope.get("attention_factor"),
    )
  known = ("default", "linear", "llama3", "yarn")
  raise UserError(f"their rope_type {kind!r}: {did_you_mean(kind, known)}")


def their_config(model: Any, vocab_size: int, max_positions: int) -> dict[str, Any]:
  """What config.json says of `model`, a Decoder that is built.

  Raises:
    UserError: neither family of theirs can be this model; names the fields that differ.
  """
  gated = isinstance(value_of(model, "block.feed_forward"), GatedFeedForward)
  theirs = (_llama_config if gated else _gpt2_config)(model)
  theirs["vocab_size"] = vocab_size
  theirs["max_position_embeddings" if gated else "n_positions"] = max_positions
  wrong = differences(model, theirs)
  if wrong:
    raise UserError(f"{theirs['architectures'][0]} cannot be this model: {'; '.join(wrong)}")
  return theirs


def _llama_config(model: Any) -> dict[str, Any]:
  rotary = value_of(model, "block.attention.rotary")
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": model.model_dim,
    "intermediate_size": value_of(model, "block.feed_forward.hidden_dim"),
    "num_hidden_layers": model.num_layers,
    "num_attention_heads": value_of(model, "block.attention.num_heads"),
    "num_key_value_heads": value_of(model, "block.attention.num_kv_heads"),
    "head_dim": value_of(model, "block.attention.head_dim"),
    "hidden_act": _activation_name(model),
    "rms_norm_eps": value_of(model, "norm.epsilon"),
    # As all releases of transformers read them.
    "rope_theta": getattr(rotary, "theta", None),
    "rope_scaling": _their_scaling(getattr(rotary, "scaling", None)),
    "attention_bias": value_of(model, "block.attention.use_bias"),
    "mlp_bias": value_of(model, "block.feed_forward.use_bias"),
    "tie_word_embeddings": model.tied_head,
  }


def _gpt2_config(model: Any) -> dict[str, Any]:
  return {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": model.model_dim,
    "n_inner": value_of(model, "block.feed_forward.hidden_dim"),
    "n_layer": model.num_layers,
    "n_head": value_of(model, "block.attention.num_heads"),
    "activation_function": _activation_name(model),
    "layer_norm_epsilon": value_of(model, "norm.epsilon"),
    "tie_word_embeddings": model.tied_head,
  }


def _activation_name(model: Any) -> str:
  ours = value_of(model, "block.feed_forward.activation")
  names = [name for name, function in _ACTIVATIONS.items() if function is ours]
  if not names:
    raise UserError(f"Hugging Face has no name for the activation {format_value(ours)}")
  return names[0]


def _their_scaling(scaling: Any) -> dict[str, Any] | None:
  if scaling is None:
    return None
  if isinstance(scaling, LinearScaling):
    return {"rope_type": "linear", "factor": scaling.factor}
  theirs = {
    "factor": scaling.factor,
    "original_max_position_embeddings": scaling.original_length,
  }
  if isinstance(scaling, Llama3Scaling):
    turns = {"low_freq_factor": scaling.low_turns, "high_freq_factor": scaling.high_turns}
    return {"rope_type": "llama3", **theirs, **turns}
  turns = {"beta_fast": scaling.fast_turns, "beta_slow": scaling.slow_turns}
  if scaling.attention_factor is not None:
    turns["attention_factor"] = scaling.attention_factor
  return {"rope_type": "yarn", **theirs, **turns}


def value_of(model: Any, path: str) -> Any:
  """A field of a built model, what it means where it is None; `_ABSENT` where there is none."""
  value = model
  for name in path.split("."):
    value = getattr(value, name, _ABSENT)
  if value is not None:
    return value
  if path.endswith("attention.num_kv_heads"):
    return model.block.attention.num_heads
  if path.endswith("attention.head_dim"):
    return model.model_dim // model.block.attention.num_heads
  if path.endswith("feed_forward.hidden_dim"):
    return 4 * model.model_dim
  return None


def differences(
  model: Any, theirs: Mapping[str, Any], except_for: tuple[str, ...] = ()
) -> list[str]:
  """ "field: theirs there, ours here" for each in which a built model is not as they say.

  `vocab_size` and `max_positions` may be None here: then they are whatever they are there.
  """
  lines = []
  for path, part in _PARTS[theirs["model_type"]].items():
    ours = value_of(model, path)
    if type(ours) is not part:
      lines.append(f"model.{path}: {part.__name__} there, {type(ours).__name__} here")
  for path, there in fields(theirs).items():
    here = value_of(model, path)
    is_open = here is None and path in ("vocab_size", "max_positions")
    if path not in except_for and not is_open and not _equal(there, here):
      lines.append(f"model.{path}: {format_value(there)} there, {format_value(here)} here")
  return lines


def _equal(there: Any, here: Any) -> bool:
  if isinstance(there, float) and isinstance(here, float | int):
    return math.isclose(there, here, rel_tol=1e-9)
  return there == here


def set_fields(model: fdl.Config, theirs: Mapping[str, Any]) -> None:
  """Makes the config of a model of the same family one of the model that they describe."""
  for path, value in fields(theirs).items():
    *parents, name = path.split(".")
    node = model
    for parent in parents:
      node = getattr(node, parent)
    setattr(node, name, as_node(value))
