"""The part of a model that a kernel belongs to, from the names of layers in the program."""

import re

# The first whose pattern is found in the names of the layers around an operation.
_PARTS = {
  "norms": "norm",
  "attention": "attention",
  "feed-forward": "feed_forward|mlp|expert",
  "logits, loss": r"\.head\b|\.logits\b|\bhead\b|logits|loss|cross_entropy",
  "embeddings": "embedding|positions",
}
OPTIMIZER, UNNAMED, LOOPS = "optimizer", "unnamed", "loops"
_WRAPPERS = re.compile(
  r"while|body|cond|closed_call|checkpoint|rematted_computation|remat\d*|shard_map|branch_\d+_fun"
)


def part(source: str) -> str:
  """The part of the model.

  Args:
    source: op_name of an instruction, such as
      "jit(train_step)/jvp(Decoder)/stack/Block/attention/query/dot_general".

  What is outside the gradient is the optimizer's. A layer of no known part goes by the name of
  the outermost layer that holds it.
  """
  if not source:
    return UNNAMED
  if "jvp" not in source:
    return OPTIMIZER
  layers = layers_around(source)
  path = "/".join(layers)
  for name, pattern in _PARTS.items():
    if re.search(pattern, path):
      return name
  if layers:
    return re.sub(r"_\d+$", "", layers[0])
  is_of_the_model = "jvp()" not in source
  return LOOPS if is_of_the_model and "/while/" in source else "logits, loss"


def layers_around(source: str) -> list[str]:
  """The layers and their methods around an operation, outermost first."""
  *around, _ = source.split("/")
  return [
    name
    for name in around
    if not re.search(r"[(,;]|->", name) and not _WRAPPERS.fullmatch(name)
  ]
