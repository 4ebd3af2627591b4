"""Rotary positions in a config.json of Hugging Face, as transformers 5 reads them.

They stand in one of two blocks, `rope_parameters` (transformers 5) or `rope_scaling` (earlier
releases), and in top-level fields. transformers 5.23 (modeling_rope_utils.py) lets a
`rope_scaling` that is not empty replace `rope_parameters` entirely, fills in theta from the top
level, and prefers a top-level `original_max_position_embeddings` to the block's. The code here
does the same, but refuses a file whose two blocks disagree.
"""

import math
from typing import Any

from input_pipelines.foreign_json import Document
from layers.errors import UserError
from layers.rotary import LinearScaling, Llama3Scaling, YarnScaling

_NEW, _OLD = "rope_parameters", "rope_scaling"
_KINDS = ("default", "linear", "llama3", "yarn")
_ORIGINAL = "original_max_position_embeddings"
_MAX_POSITIONS = "max_position_embeddings"
_LARGEST = 2**31 - 1  # of a length; LLaMA 4's contexts have 10 million positions
_SMALLEST = 1e-6  # of a factor or a number of turns: dividing by less overflows

Scaling = LinearScaling | Llama3Scaling | YarnScaling | None


def read_rotary(theirs: Document) -> tuple[float, Scaling]:
  """Theta and scaling.

  Args:
    theirs: the config.json of a LLaMA.

  Raises:
    UserError: a kind of scaling or a value is unknown here, or the blocks disagree.
  """
  blocks = [theirs.document(name) for name in (_OLD, _NEW) if theirs.values.get(name)]
  read = [_block(block, theirs) for block in blocks or [Document({}, theirs.source)]]
  if len(read) == 2:
    (theta, scaling), (other_theta, other_scaling) = read
    if theta != other_theta or other_scaling not in (None, scaling):
      raise UserError(
        f"{theirs.source}: {_OLD} and {_NEW} disagree; leave out the one that does not hold"
      )
  return read[0]


def their_scaling(scaling: Scaling) -> dict[str, Any] | None:
  """`rope_scaling` in the form that all releases of transformers read."""
  if scaling is None:
    return None
  if isinstance(scaling, LinearScaling):
    return {"rope_type": "linear", "factor": scaling.factor}
  theirs = {"factor": scaling.factor, _ORIGINAL: scaling.original_length}
  if isinstance(scaling, Llama3Scaling):
    turns = {"low_freq_factor": scaling.low_turns, "high_freq_factor": scaling.high_turns}
    return {"rope_type": "llama3", **theirs, **turns}
  more: dict[str, Any] = {"beta_fast": scaling.fast_turns, "beta_slow": scaling.slow_turns}
  if scaling.attention_factor is not None:
    more["attention_factor"] = scaling.attention_factor
  if not scaling.truncate:
    more["truncate"] = False
  return {"rope_type": "yarn", **theirs, **more}


def _block(block: Document, theirs: Document) -> tuple[float, Scaling]:
  nested = [name for name, value in block.values.items() if isinstance(value, dict)]
  if nested:
    raise UserError(f"{block.source} differs by kind of layer, which no model here can")
  theta = block.number("rope_theta", None, above=1)
  theta = theirs.number("rope_theta", 10_000.0, above=1) if theta is None else theta
  for part in (block, theirs):
    if part.number("partial_rotary_factor", 1.0) != 1:
      factor = part.number("partial_rotary_factor")
      raise UserError(f"{part.source}: partial_rotary_factor={factor}; here it can be 1.0")
  kind = block.text("rope_type", None) or block.text("type", "default")
  if kind not in _KINDS:
    raise UserError(
      f"{block.source}: the rope_type {kind[:40]!r} is none of those known here, "
      f"{', '.join(_KINDS)}"
    )
  scaling = {
    "default": lambda *_: None,
    "linear": lambda *_: LinearScaling(factor=block.number("factor", above=_SMALLEST)),
    "llama3": _llama3,
    "yarn": _yarn,
  }[kind]
  return float(theta), scaling(block, theirs)


def _llama3(block: Document, theirs: Document) -> Llama3Scaling:
  low = block.number("low_freq_factor", above=_SMALLEST)
  high = block.number("high_freq_factor", above=_SMALLEST)
  if high <= low:
    raise UserError(
      f"{block.source}: high_freq_factor is {high}, and has to be more than low_freq_factor, "
      f"{low}"
    )
  return Llama3Scaling(
    factor=block.number("factor", above=_SMALLEST),
    low_turns=low,
    high_turns=high,
    original_length=_original_length(block, theirs),
  )


def _yarn(block: Document, theirs: Document) -> YarnScaling:
  original = _original_length(block, theirs)
  factor = block.number("factor", None, above=_SMALLEST)
  if factor is None:
    factor = _max_positions(theirs) / original
  fast, slow = _turns(block, "beta_fast", 32.0), _turns(block, "beta_slow", 1.0)
  if fast <= slow:
    raise UserError(
      f"{block.source}: beta_fast is {fast}, and has to be more than beta_slow, {slow}"
    )
  return YarnScaling(
    factor=factor,
    original_length=original,
    fast_turns=fast,
    slow_turns=slow,
    attention_factor=_attention_factor(block, factor),
    # transformers reads null as false; only an absent field means true.
    truncate=block.flag("truncate", False) if "truncate" in block.values else True,
  )


def _turns(block: Document, name: str, default: float) -> float:
  if block.number(name, 0) == 0:  # transformers treats 0 as absent
    return default
  turns = block.number(name, above=_SMALLEST)
  if turns > _LARGEST:
    raise UserError(f"{block.source}: {name} is {turns:g}, more turns than any length has")
  return turns


def _attention_factor(block: Document, factor: float) -> float | None:
  """The given factor, or the one from DeepSeek's mscale pair; None: YaRN's default."""
  given = block.number("attention_factor", None, above=0)
  scale, all_dims = block.number("mscale", None), block.number("mscale_all_dim", None)
  if given is not None or not (scale and all_dims):
    return given
  magnitude = lambda scale: 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0
  divisor = magnitude(all_dims)
  ratio = magnitude(scale) / divisor if divisor else math.inf
  if not 0 < ratio < math.inf:
    raise UserError(
      f"{block.source}: mscale {scale} and mscale_all_dim {all_dims} give a factor of {ratio}"
    )
  return ratio


def _original_length(block: Document, theirs: Document) -> int:
  outer = theirs.whole(_ORIGINAL, None, at_least=1, at_most=_LARGEST)
  inner = block.whole(_ORIGINAL, None, at_least=1, at_most=_LARGEST)
  return outer or inner or _max_positions(theirs)


def _max_positions(theirs: Document) -> int:
  return theirs.whole(_MAX_POSITIONS, 2048, at_least=1, at_most=_LARGEST)
