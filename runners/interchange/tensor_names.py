"""Tables that match the tensors of Hugging Face and LWM with our arrays, for each family.

Hugging Face orders a head's features as we do: rotary pairs are (i, i + H / 2), and query head
n reads key head n // G. So each of their tensors is one of our arrays folded to two dimensions,
perhaps transposed, or several of them joined along their outputs.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One of their tensors.

  Attributes:
    name: their name for it; `{layer}` is the number of the layer, from 0.
    parts: names of our arrays that form it, joined along their output dimensions.
    inputs: how many leading dimensions of our arrays are inputs; 0: a vector.
    transposed: their layout is [outputs, inputs] (torch's Linear), not [inputs, outputs].
    interleaved: their rotary pairs are features (2 i, 2 i + 1) of a head.
  """

  name: str
  parts: tuple[str, ...]
  inputs: int = 1
  transposed: bool = False
  interleaved: bool = False

  def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Their tensor from our arrays, perhaps as a view."""
    if self.interleaved:
      parts = [_swapped_pairs(x, 2, x.shape[-1] // 2) for x in parts]
    folded = [x.reshape(_folded(x.shape, self.inputs)) for x in parts]
    whole = folded[0] if len(folded) == 1 else np.concatenate(folded, axis=-1)
    return whole.T if self.transposed else whole

  def split(self, whole: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Our arrays, of these shapes, as views of their tensor; the inverse of `join`."""
    if self.transposed:
      whole = whole.T
    widths = [_folded(shape, self.inputs)[-1] for shape in shapes]
    pieces = np.split(whole, np.cumsum(widths)[:-1], axis=-1)
    parts = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return [_swapped_pairs(x, x.shape[-1] // 2, 2) if self.interleaved else x for x in parts]

  def shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of their tensor, given the shapes of our arrays."""
    folded = [_folded(shape, self.inputs) for shape in shapes]
    joined = (*folded[0][:-1], sum(shape[-1] for shape in folded))
    return joined[::-1] if self.transposed else joined


def _swapped_pairs(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Reads the last dimension as a [rows, columns] table and transposes it."""
  return x.reshape(*x.shape[:-1], rows, columns).swapaxes(-1, -2).reshape(x.shape)


def _folded(shape: Sequence[int], inputs: int) -> tuple[int, ...]:
  outputs = math.prod(shape[inputs:])
  return (math.prod(shape[:inputs]), outputs) if inputs else (outputs,)


def _linear(name: str, ours: str, inputs: int = 1) -> tuple[Tensor, Tensor]:
  return (
    Tensor(f"{name}.weight", (f"{ours}/kernel",), inputs, transposed=True),
    Tensor(f"{name}.bias", (f"{ours}/bias",), inputs=0),
  )


def _conv1d(name: str, *ours: str, inputs: int = 1) -> tuple[Tensor, Tensor]:
  return (
    Tensor(f"{name}.weight", tuple(f"{part}/kernel" for part in ours), inputs),
    Tensor(f"{name}.bias", tuple(f"{part}/bias" for part in ours), inputs=0),
  )


def _norm(name: str, ours: str) -> tuple[Tensor, Tensor]:
  return (
    Tensor(f"{name}.weight", (f"{ours}/scale",), inputs=0),
    Tensor(f"{name}.bias", (f"{ours}/bias",), inputs=0),
  )


_OUR_LAYER = f"stack/layers/{_LAYER}"
_LLAMA_LAYER = f"model.layers.{_LAYER}"
_LWM_LAYER = f"transformer/h/{_LAYER}"
_GPT2_LAYER = f"transformer.h.{_LAYER}"

LWM = "lwm"  # Large World Model's own code; the other families are Hugging Face's

# Their model_type -> its tensors. `matches` leaves out those that a model does not have.
TENSORS: Mapping[str, tuple[Tensor, ...]] = {
  "llama": (
    Tensor("model.embed_tokens.weight", ("embedding/table",)),
    *_norm(f"{_LLAMA_LAYER}.input_layernorm", f"{_OUR_LAYER}/attention_norm"),
    *_linear(f"{_LLAMA_LAYER}.self_attn.q_proj", f"{_OUR_LAYER}/attention/query"),
    *_linear(f"{_LLAMA_LAYER}.self_attn.k_proj", f"{_OUR_LAYER}/attention/key"),
    *_linear(f"{_LLAMA_LAYER}.self_attn.v_proj", f"{_OUR_LAYER}/attention/value"),
    *_linear(f"{_LLAMA_LAYER}.self_attn.o_proj", f"{_OUR_LAYER}/attention/out", inputs=2),
    *_norm(f"{_LLAMA_LAYER}.post_attention_layernorm", f"{_OUR_LAYER}/feed_forward_norm"),
    *_linear(f"{_LLAMA_LAYER}.mlp.gate_proj", f"{_OUR_LAYER}/feed_forward/gate"),
    *_linear(f"{_LLAMA_LAYER}.mlp.up_proj", f"{_OUR_LAYER}/feed_forward/up"),
    *_linear(f"{_LLAMA_LAYER}.mlp.down_proj", f"{_OUR_LAYER}/feed_forward/down"),
    *_norm("model.norm", "final_norm"),
    Tensor("lm_head.weight", ("head/projection/kernel",), transposed=True),
  ),
  "gpt2": (
    Tensor("transformer.wte.weight", ("embedding/table",)),
    Tensor("transformer.wpe.weight", ("positions/table",)),
    *_norm(f"{_GPT2_LAYER}.ln_1", f"{_OUR_LAYER}/attention_norm"),
    *_conv1d(
      f"{_GPT2_LAYER}.attn.c_attn",
      *(f"{_OUR_LAYER}/attention/{part}" for part in ("query", "key", "value")),
    ),
    *_conv1d(f"{_GPT2_LAYER}.attn.c_proj", f"{_OUR_LAYER}/attention/out", inputs=2),
    *_norm(f"{_GPT2_LAYER}.ln_2", f"{_OUR_LAYER}/feed_forward_norm"),
    *_conv1d(f"{_GPT2_LAYER}.mlp.c_fc", f"{_OUR_LAYER}/feed_forward/up"),
    *_conv1d(f"{_GPT2_LAYER}.mlp.c_proj", f"{_OUR_LAYER}/feed_forward/down"),
    *_norm("transformer.ln_f", "final_norm"),
    Tensor("lm_head.weight", ("head/projection/kernel",), transposed=True),
  ),
  LWM: (
    Tensor("transformer/wte/embedding", ("embedding/table",)),
    *(
      Tensor(
        f"{_LWM_LAYER}/attention/{theirs}/kernel",
        (f"{_OUR_LAYER}/attention/{ours}/kernel",),
        inputs=2 if ours == "out" else 1,
        interleaved=ours in ("query", "key"),
      )
      for theirs, ours in {"wq": "query", "wk": "key", "wv": "value", "wo": "out"}.items()
    ),
    *(
      Tensor(
        f"{_LWM_LAYER}/feed_forward/{theirs}/kernel",
        (f"{_OUR_LAYER}/feed_forward/{ours}/kernel",),
      )
      for theirs, ours in {"w1": "gate", "w3": "up", "w2": "down"}.items()
    ),
    *(
      Tensor(f"{_LWM_LAYER}/{theirs}/kernel", (f"{_OUR_LAYER}/{ours}/scale",), inputs=0)
      for theirs, ours in {
        "attention_norm": "attention_norm",
        "ffn_norm": "feed_forward_norm",
      }.items()
    ),
    Tensor("transformer/ln_f/kernel", ("final_norm/scale",), inputs=0),
    Tensor("lm_head/kernel", ("head/projection/kernel",)),
  ),
}

# Their files may also hold buffers, which follow from the config.
BUFFERS = (r"\.attn\.(masked_)?bias$", r"\.rotary_emb\.inv_freq$")
TIED_HEAD = "lm_head.weight"


class Place(NamedTuple):
  """Where a part is: a whole array of ours, or one layer of a scanned array."""

  array: str
  layer: int | None = None


class Match(NamedTuple):
  """One of their tensors with its layer number filled in, and the places of its parts."""

  name: str
  tensor: Tensor
  places: tuple[Place, ...]


def matches(model_type: str, arrays: Iterable[str], num_layers: int) -> list[Match]:
  """Their tensors for a model with these arrays, in the order of TENSORS.

  Args:
    model_type: a key of TENSORS.
    arrays: our names, below "params/"; layers without a number are scanned.
    num_layers: of the model.
  """
  known = set(arrays)
  scanned = not any(name.startswith("stack/layers/0/") for name in known)
  found = []
  for tensor in TENSORS[model_type]:
    for layer in range(num_layers if _LAYER in tensor.name else 1):
      places = tuple(_place(part, layer, scanned) for part in tensor.parts)
      if known.issuperset(place.array for place in places):
        found.append(Match(tensor.name.format(layer=layer), tensor, places))
  return found


def _place(part: str, layer: int, scanned: bool) -> Place:
  if _LAYER not in part:
    return Place(part)
  if scanned:
    return Place(part.replace(f"{_LAYER}/", ""), layer)
  return Place(part.format(layer=layer))
