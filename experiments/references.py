"""What `@name` can mean on the command line: callables by a short name.

The names in this table cost nothing until one is used. Other packages add theirs with
`@referable`; anything importable is reached by its full name, `@my_package.module:Name(...)`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.import_by_name import import_object

_BY_MODULE = {
  "layers.attention": ("Attention", "dense_attention"),
  "layers.auto_attention": ("auto_attention",),
  "layers.blockwise_attention": ("BlockwiseAttention",),
  "layers.cudnn_attention": ("CudnnAttention",),
  "layers.decoder": ("Decoder",),
  "layers.feed_forward": ("FeedForward", "GatedFeedForward", "gelu_exact", "gelu_tanh"),
  "layers.masks": ("BlockCausal", "SlidingWindow", "causal_mask", "full_mask"),
  "layers.normalization": ("LayerNorm", "RMSNorm"),
  "layers.rematerialization": ("Remat",),
  "layers.ring_attention": ("RingAttention",),
  "layers.rotary": ("LinearScaling", "Llama3Scaling", "Rotary", "YarnScaling"),
  "layers.splash_attention": ("SplashAttention",),
  "layers.ulysses_attention": ("UlyssesAttention",),
  "runners.callbacks": ("EarlyStopping", "Profile", "StopOnNonFinite"),
  "runners.collective_budget": ("Allowance",),
  "runners.console": ("Console",),
  "runners.init_from": ("InitFrom",),
  "runners.json_lines": ("JsonLines",),
  "runners.meshes": ("MeshShape",),
  "runners.optimizers": ("adamw", "decay_kernels", "lion", "sgdm"),
  "runners.retention": ("Checkpoints",),
  "runners.schedules": (
    "constant",
    "warmup_cosine",
    "warmup_exponential",
    "warmup_linear",
    "warmup_rsqrt",
    "warmup_stable_decay",
  ),
  "runners.tensorboard_writer": ("TensorBoard",),
  "runners.trainer": ("Precision",),
  "tasks.hugging_face": ("HuggingFace",),
  "tasks.jsonl": ("Jsonl",),
  "tasks.language_modeling": ("NextToken",),
  "tasks.mixture": ("Mixture",),
  "tasks.python_stdlib": ("PythonStdlib",),
  "tasks.registered_task": ("RegisteredTask",),
  "tasks.text_file": ("TextFile",),
}

# short name -> "module:attribute".
IN_TREE = {name: f"{module}:{name}" for module, names in _BY_MODULE.items() for name in names}

_registered: dict[str, Callable[..., Any]] = {}

F = TypeVar("F", bound=Callable[..., Any])


def referable(target: F) -> F:
  """Decorator: the class or function can be written `@its_name` in a value."""
  register_reference(target.__name__, target)
  return target


def register_reference(name: str, target: Callable[..., Any]) -> None:
  """Lets a value say `@name`. A name that means something else already is an error."""
  old = _registered.get(name)
  taken = name in IN_TREE or (old is not None and _identity(old) != _identity(target))
  if taken:
    raise UserError(f"@{name} already means {IN_TREE.get(name) or _identity(old)}; rename one")
  _registered[name] = target


def find_reference(name: str) -> Callable[..., Any]:
  """The callable that `@name` means; UserError with the nearest names otherwise."""
  if name in _registered:
    return _registered[name]
  full_name = IN_TREE.get(name, name)
  if ":" not in full_name:
    names = [f"@{known}" for known in known_references()]
    raise UserError(
      f"there is no @{name}: {did_you_mean('@' + name, names)}"
      " (anything importable is @package.module:Name)"
    )
  target = import_object(*full_name.split(":", 1))
  if not callable(target):
    raise UserError(f"@{name} is a {type(target).__name__}, not a class or function")
  return target


def known_references() -> list[str]:
  """Every short name."""
  return [*IN_TREE, *_registered]


def _identity(target: Any) -> str:
  return f"{target.__module__}:{target.__qualname__}"
