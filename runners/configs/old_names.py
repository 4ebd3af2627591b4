"""The one table of old names: objects that have moved since older versions.

A config.json, an override file and a checkpoint's record name objects by module. This table
translates old names, so that old files keep their meaning.
"""

import re

# Old module -> new module, for modules whose classes and functions a config may name.
_MODULES = {
  "layers.attention_blocks": "layers.attention_cores.block_pairs",
  "layers.attention_layout": "layers.attention_cores.heads_and_rows",
  "layers.auto_attention": "layers.attention_cores.auto",
  "layers.blockwise_attention": "layers.attention_cores.blockwise",
  "layers.cudnn_attention": "layers.attention_cores.cudnn",
  "layers.masked_softmax": "layers.attention_cores.masked_softmax",
  "layers.online_softmax": "layers.attention_cores.online_softmax",
  "layers.ring": "layers.attention_cores.zigzag",
  "layers.ring_attention": "layers.attention_cores.ring",
  "layers.splash_attention": "layers.attention_cores.splash",
  "layers.splash_kernels": "layers.attention_cores.splash_kernels",
  "layers.splash_ring": "layers.attention_cores.splash_ring",
  "layers.ulysses_attention": "layers.attention_cores.ulysses",
  "runners.collective_budget": "runners.devices.collective_budget",
  "runners.console": "runners.metrics.console",
  "runners.init_from": "runners.interchange.init_from",
  "runners.json_lines": "runners.metrics.json_lines",
  "runners.meshes": "runners.devices.meshes",
  "runners.retention": "runners.checkpoints.retention",
  "runners.tensorboard_writer": "runners.metrics.tensorboard",
}

# The same for single objects whose old module is still there.
_OBJECTS = {
  "layers.attention:AttentionCore": "layers.attention_cores.dense:AttentionCore",
  "layers.attention:dense_attention": "layers.attention_cores.dense:dense_attention",
}

_FIRST_MODULES = {new: old for old, new in _MODULES.items()}
_FIRST_OBJECTS = {new: old for old, new in _OBJECTS.items()}

_NAME = re.compile(r"(?<![\w.:])([a-z_]\w*(?:\.\w+)*):(\w+)")


def current_name(full_name: str) -> str:
  """The current name of an old `module:Name`; any other name is returned unchanged."""
  module, colon, name = full_name.partition(":")
  return _OBJECTS.get(full_name) or f"{_MODULES.get(module, module)}{colon}{name}"


def with_current_names(text: str) -> str:
  """A value as text, such as a config field in a checkpoint, with current names in it."""
  return _NAME.sub(lambda found: current_name(found[0]), text)


def with_first_names(text: str) -> str:
  """The text with the oldest name of each object, so that its hash survives a move."""
  return _NAME.sub(lambda found: _first_name(found[0]), text)


def _first_name(full_name: str) -> str:
  module, colon, name = full_name.partition(":")
  return _FIRST_OBJECTS.get(full_name) or f"{_FIRST_MODULES.get(module, module)}{colon}{name}"
