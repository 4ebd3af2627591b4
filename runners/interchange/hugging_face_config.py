"""Translates between Hugging Face's config.json and the fields of our model, both ways.

A field is named by its path below `model`, as in `--set=model.block.attention.num_heads=8`.
"Theirs" is Hugging Face's side, "ours" is Strata's.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fiddle as fdl
import flax.linen as nn

from input_pipelines.foreign_files import file_within
from input_pipelines.foreign_json import Document, read_document
from layers.attention import Attention
from layers.block import Block
from layers.errors import UserError
from layers.feed_forward import FeedForward, GatedFeedForward, gelu_exact, gelu_tanh
from layers.masks import causal_mask
from layers.normalization import LayerNorm, RMSNorm
from layers.rotary import Rotary
from runners.configs.fields import as_node
from runners.configs.tree import format_value
from runners.interchange.hugging_face_rope import read_rotary, their_scaling

CONFIG = "config.json"
MAX_LAYERS = 1_000  # LLaMA 3.1 405B has 126; each costs time before the first tensor is read
MAX_CONFIG_BYTES = 2**24  # an object of JSON takes 30 times its text in memory
MAX_SIZE = 2**31 - 1  # of a width, a vocabulary, a number of heads or positions

# Their name -> our function; export writes the first name of a function.
_ACTIVATIONS: Mapping[str, Callable] = {
  "silu": nn.silu,
  "swish": nn.silu,
  "gelu_new": gelu_tanh,
  "gelu_pytorch_tanh": gelu_tanh,
  "gelu_fast": gelu_tanh,
  "gelu": gelu_exact,
  "gelu_python": gelu_exact,
}

# Family -> path of a part of our model -> the class it must have.
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

# A later stage of training may change these: no array's shape depends on them.
MAY_CHANGE = (
  "block.attention.mask",
  "block.attention.rotary.theta",
  "block.attention.rotary.scaling",
)

_ABSENT = "<no such field>"


def is_folder_of_theirs(path: str | Path) -> bool:
  """Whether `path` is a folder with a config.json of Hugging Face, not of a run."""
  try:
    return "model_type" in read_document(Path(path) / CONFIG, MAX_CONFIG_BYTES)
  except UserError:
    return False


def read_config(folder: str | Path) -> Document:
  """Their config.json.

  Raises:
    UserError: it is missing, damaged, or of an unknown family.
  """
  theirs = read_document(file_within(folder, CONFIG), MAX_CONFIG_BYTES)
  family_of(theirs)
  return theirs


def family_of(theirs: Document) -> str:
  """Their model_type; UserError if it is unknown here."""
  if "model_type" not in theirs:
    raise UserError(f"{theirs.source} is no config.json of Hugging Face's (no model_type)")
  family = theirs.text("model_type")
  if family not in _PARTS:
    raise UserError(
      f"{theirs.source}: the model_type {family[:40]!r} is not known here; known are "
      f"{', '.join(_PARTS)}"
    )
  return family


def fields(theirs: Document) -> dict[str, Any]:
  """Path -> value of every field of our model that their config determines.

  Raises:
    UserError: a value has a wrong type, or our model cannot be built that way.
  """
  return {"llama": _llama_fields, "gpt2": _gpt2_fields}[family_of(theirs)](theirs)


def _llama_fields(theirs: Document) -> dict[str, Any]:
  # pretraining_tp (old releases) splits products into parts: it changes only the rounding.
  _refuse(theirs, {"per_layer_config": None})
  heads, width = _size(theirs, "num_attention_heads"), _size(theirs, "hidden_size")
  epsilon = theirs.number("rms_norm_eps", 1e-6, above=0)
  _size(theirs, "max_position_embeddings", 2048)  # only checked: our LLaMA has no such field
  theta, scaling = read_rotary(theirs)
  return {
    "num_layers": theirs.whole("num_hidden_layers", at_least=1, at_most=MAX_LAYERS),
    "model_dim": width,
    "vocab_size": _size(theirs, "vocab_size"),
    "learned_positions": False,
    "tied_head": theirs.flag("tie_word_embeddings", False),
    "norm.epsilon": epsilon,
    "block.norm.epsilon": epsilon,
    "block.attention.num_heads": heads,
    "block.attention.num_kv_heads": _kv_heads(theirs, heads),
    "block.attention.head_dim": _head_dim(theirs, width, heads),
    "block.attention.use_bias": theirs.flag("attention_bias", False),
    "block.attention.mask": causal_mask,
    "block.attention.rotary.theta": theta,
    "block.attention.rotary.scaling": scaling,
    "block.feed_forward.hidden_dim": _size(theirs, "intermediate_size"),
    "block.feed_forward.activation": _activation(theirs, "hidden_act", "silu"),
    "block.feed_forward.use_bias": theirs.flag("mlp_bias", False),
  }


def _gpt2_fields(theirs: Document) -> dict[str, Any]:
  _refuse(
    theirs,
    {
      "scale_attn_weights": True,
      "scale_attn_by_inverse_layer_idx": False,
      "add_cross_attention": False,
    },
  )
  heads, width = _size(theirs, "n_head"), _size(theirs, "n_embd")
  if width % heads:
    raise UserError(f"{theirs.source}: n_embd is {width}, which n_head={heads} does not divide")
  epsilon = theirs.number("layer_norm_epsilon", 1e-5, above=0)
  return {
    "num_layers": theirs.whole("n_layer", at_least=1, at_most=MAX_LAYERS),
    "model_dim": width,
    "vocab_size": _size(theirs, "vocab_size"),
    "max_positions": _size(theirs, "n_positions", 1024),
    "learned_positions": True,
    "tied_head": theirs.flag("tie_word_embeddings", True),
    "norm.epsilon": epsilon,
    "norm.use_bias": True,
    "block.norm.epsilon": epsilon,
    "block.norm.use_bias": True,
    "block.attention.num_heads": heads,
    "block.attention.num_kv_heads": heads,
    "block.attention.head_dim": width // heads,
    "block.attention.use_bias": True,
    "block.attention.mask": causal_mask,
    "block.feed_forward.hidden_dim": _size(theirs, "n_inner", 4 * width),
    "block.feed_forward.activation": _activation(theirs, "activation_function", "gelu_new"),
    "block.feed_forward.use_bias": True,
  }


def _size(theirs: Document, name: str, *default: int) -> int:
  return theirs.whole(name, *default, at_least=1, at_most=MAX_SIZE)


def _kv_heads(theirs: Document, heads: int) -> int:
  kv_heads = _size(theirs, "num_key_value_heads", heads)
  if heads % kv_heads:
    raise UserError(
      f"{theirs.source}: num_key_value_heads is {kv_heads}, which does not divide the {heads} "
      "heads of attention"
    )
  return kv_heads


def _head_dim(theirs: Document, width: int, heads: int) -> int:
  if "head_dim" not in theirs and width % heads:
    raise UserError(
      f"{theirs.source}: hidden_size is {width}, which num_attention_heads={heads} does not "
      "divide, and there is no head_dim"
    )
  head_dim = _size(theirs, "head_dim", width // heads)
  if head_dim % 2:
    raise UserError(f"{theirs.source}: heads are {head_dim} wide, and have to be even to turn")
  return head_dim


def _refuse(theirs: Document, only: Mapping[str, Any]) -> None:
  for name, value in only.items():
    if name in theirs and theirs.values[name] != value:
      shown = json.dumps(theirs.values[name])[:60]
      raise UserError(f"{theirs.source}: {name} is {shown}; here it can be {json.dumps(value)}")


def _activation(theirs: Document, name: str, default: str) -> Callable:
  activation = theirs.text(name, default)
  if activation not in _ACTIVATIONS:
    raise UserError(
      f"{theirs.source}: the activation {activation[:40]!r} is none that models here "
      f"compute, and another would change the model; known are {', '.join(_ACTIVATIONS)}"
    )
  return _ACTIVATIONS[activation]


def their_config(model: Any, vocab_size: int, max_positions: int) -> dict[str, Any]:
  """The content of config.json for `model`, a built Decoder.

  Raises:
    UserError: neither of their families can express this model; names the fields at fault.
  """
  gated = isinstance(value_of(model, "block.feed_forward"), GatedFeedForward)
  theirs = (_llama_config if gated else _gpt2_config)(model)
  theirs["vocab_size"] = vocab_size
  theirs["max_position_embeddings" if gated else "n_positions"] = max_positions
  wrong = differences(model, Document(theirs, "the config.json to be"))
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
    # In the form that all releases of transformers read.
    "rope_theta": getattr(rotary, "theta", None),
    "rope_scaling": their_scaling(getattr(rotary, "scaling", None)),
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


def value_of(model: Any, path: str) -> Any:
  """A field of a built model; for None the value it stands for; `_ABSENT` without the field."""
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


def differences(model: Any, theirs: Document, except_for: tuple[str, ...] = ()) -> list[str]:
  """One line "field: their value there, ours here" for each difference from a built model.

  If `vocab_size` or `max_positions` is None here, it fits any value of theirs.
  """
  lines = []
  for path, part in _PARTS[family_of(theirs)].items():
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


def set_fields(model: fdl.Config, theirs: Document) -> None:
  """Sets the fields of a model config (of the same family) to their values."""
  for path, value in fields(theirs).items():
    *parents, name = path.split(".")
    node = model
    for parent in parents:
      node = getattr(node, parent)
    setattr(node, name, as_node(value))
