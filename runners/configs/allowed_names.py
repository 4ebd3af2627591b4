"""The names that a config may use: the one place where `module:Name` becomes an object.

A file may come from a stranger, and building the config calls the objects it names. So a name
may only lead to

  - the table below, and the layers, which are pure maths;
  - optax, flax.linen and jax.nn;
  - packages that the user has allowed (input_pipelines/allowed_packages.py);
  - objects that this process's own code has put into a config or registered.

The place of definition decides, not the path to it: `os`, reached through an allowed module, is
refused. Other modules are not imported.
"""

import enum
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

from input_pipelines import allowed_packages
from input_pipelines.allowed_packages import is_allowed, is_library
from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.configs.import_by_name import import_module
from runners.configs.old_names import current_name

_BY_MODULE = {
  "layers.attention": ("Attention",),
  "layers.attention_cores.auto": ("auto_attention",),
  "layers.attention_cores.blockwise": ("BlockwiseAttention",),
  "layers.attention_cores.cudnn": ("CudnnAttention",),
  "layers.attention_cores.dense": ("dense_attention",),
  "layers.attention_cores.ring": ("RingAttention",),
  "layers.attention_cores.splash": ("SplashAttention",),
  "layers.attention_cores.ulysses": ("UlyssesAttention",),
  "layers.decoder": ("Decoder",),
  "layers.feed_forward": ("FeedForward", "GatedFeedForward", "gelu_exact", "gelu_tanh"),
  "layers.masks": ("BlockCausal", "SlidingWindow", "causal_mask", "full_mask"),
  "layers.normalization": ("LayerNorm", "RMSNorm"),
  "layers.rematerialization": ("Remat",),
  "layers.rotary": ("LinearScaling", "Llama3Scaling", "Rotary", "YarnScaling"),
  "runners.callbacks": ("EarlyStopping", "Profile", "StopOnNonFinite"),
  "runners.checkpoints.retention": ("Checkpoints",),
  "runners.devices.collective_budget": ("Allowance",),
  "runners.devices.meshes": ("MeshShape",),
  "runners.interchange.init_from": ("InitFrom",),
  "runners.metrics.console": ("Console",),
  "runners.metrics.json_lines": ("JsonLines",),
  "runners.metrics.tensorboard": ("TensorBoard",),
  "runners.optimizer_labels": ("by_label",),
  "runners.optimizers": ("adamw", "decay_kernels", "lion", "sgdm"),
  "runners.schedules": (
    "constant",
    "warmup_cosine",
    "warmup_exponential",
    "warmup_linear",
    "warmup_rsqrt",
    "warmup_stable_decay",
  ),
  "runners.train_step": ("TrainStep",),
  "runners.trainer": ("Precision",),
  "tasks.auxiliary_losses": ("WithReports",),
  "tasks.hugging_face": ("HuggingFace",),
  "tasks.jsonl": ("Jsonl",),
  "tasks.language_modeling": ("NextToken", "RowMeanNextToken"),
  "tasks.mixture": ("Mixture",),
  "tasks.python_stdlib": ("PythonStdlib",),
  "tasks.registered_task": ("RegisteredTask",),
  "tasks.text_file": ("TextFile",),
}

# `@name` on the command line -> "module:name".
IN_TREE = {name: f"{module}:{name}" for module, names in _BY_MODULE.items() for name in names}

# Also allowed: the root of every config, and a function that jax.nn takes from jax.numpy.
_OTHERS = ("runners.trainer:Trainer", "jax.numpy:tanh")
_TABLE = frozenset((*IN_TREE.values(), *_OTHERS))

_admitted: set[str] = set()


def admit(names: Iterable[str]) -> None:
  """Allows these `module:Name`s in configs, because this process's own code uses them."""
  _admitted.update(names)


def refused(names: Iterable[str]) -> list[str]:
  """The `module:Name`s that a config may not use, found without importing their modules."""
  return [name for name in names if not _is_open(*_offered_name(name).partition(":")[::2])]


def find(full_name: str) -> Any:
  """The class, function, enum member or constant called `module:Name`.

  Raises:
    UserError: it may not be named, is not there, or is something else.
  """
  full_name = _offered_name(full_name)
  module, _, name = full_name.partition(":")
  if not _is_open(module, name):
    raise UserError(allowed_packages.refusal([full_name]))
  value = _walk(module, name)
  if not (callable(value) or isinstance(value, enum.Enum)):
    raise UserError(f"{full_name} is a {type(value).__name__}, not a class or function")
  if full_name not in _admitted and not _is_defined_openly(value, module):
    origin = f"{_origin(value)}:{getattr(value, '__qualname__', name)}"
    raise UserError(f"{full_name} leads to {allowed_packages.refusal([origin])}")
  return value


def find_function(full_name: str) -> Callable[..., Any]:
  """The function called `module:name` in a package that the user has allowed."""
  if full_name not in _admitted and not is_allowed(full_name.partition(":")[0]):
    raise UserError(allowed_packages.refusal([full_name]))
  value = find(full_name)
  if not inspect.isfunction(value):
    raise UserError(f"{full_name} is a {type(value).__name__}, not a function")
  return value


def _offered_name(full_name: str) -> str:
  """The current and public form of a name.

  Fiddle writes `optax._src.alias:adamw` for the object that optax offers as `optax:adamw`.
  """
  full_name = current_name(full_name)
  module, _, name = full_name.partition(":")
  public = [part for part in module.split(".") if not part.startswith("_")]
  if len(public) == module.count(".") + 1:
    return full_name
  for length in range(len(public), 0, -1):
    candidate = ".".join(public[:length])
    if is_library(candidate) and importlib.util.find_spec(candidate) is not None:
      found = getattr(import_module(candidate), name, None)
      if getattr(found, "__module__", None) == module:
        return f"{candidate}:{name}"
  return full_name


def _is_open(module: str, name: str) -> bool:
  """Whether the name may be looked up at all."""
  full_name = f"{module}:{name}"
  if full_name in _admitted or full_name in _TABLE:
    return True
  parts = [*module.split("."), *name.split(".")]
  if not all(part.isidentifier() and not part.startswith("__") for part in parts):
    return False
  if is_library(module) or parts[0] == "layers":
    return not any(part.startswith("_") for part in parts)
  return is_allowed(module)


def _walk(module: str, name: str) -> Any:
  """Looks up `name` in a module; dots may reach into classes, never into another module."""
  value: Any = import_module(module)
  for part in name.split("."):
    if not isinstance(value, type) and value is not sys.modules.get(module):
      raise UserError(f"{module}:{name}: {part} is looked for in a {type(value).__name__}")
    if not hasattr(value, part):
      known = [known for known in dir(value) if not known.startswith("_")]
      raise UserError(f"{module!r} has no {name!r}: {did_you_mean(part, known)}")
    value = getattr(value, part)
  return value


def _is_defined_openly(value: Any, module: str) -> bool:
  """Whether the module that defines `value` may be named, or belongs to the same library."""
  origin = _origin(value)
  if _is_open(origin, str(getattr(value, "__qualname__", "name"))):
    return True
  return is_library(module) and origin.partition(".")[0] in ("flax", "jax", "optax")


def _origin(value: Any) -> str:
  """The module that defines a value; for an enum member, the module of its class."""
  holder = type(value) if isinstance(value, enum.Enum) else value
  return str(getattr(holder, "__module__", None) or type(value).__module__)
