"""What must not be called, by the names under which a file might reach it; how it is fuzzed."""

import subprocess

from hypothesis import HealthCheck, Phase, settings

# An input that fails is found and made small. To explain it too would trace every line of all.
FUZZ = settings(
  phases=[Phase.explicit, Phase.generate, Phase.shrink],
  derandomize=True,
  deadline=None,
  database=None,
  max_examples=10_000,
  suppress_health_check=list(HealthCheck),
)

CALLS: list[str] = []


def sing(*arguments, **named):
  CALLS.append(f"sing{arguments}{named}")


class Bird:
  """As `sing`, for a class."""

  def __init__(self, *arguments, **named):
    CALLS.append(f"Bird{arguments}{named}")


run = subprocess.run

NAMES = (
  "tests.canary:sing",
  "tests.canary:Bird",
  "tests.canary:run",
  "os:system",
  "os:environ.__dict__",
  "builtins:eval",
  "builtins:dict",
  "builtins:print",
  "subprocess:getoutput",
  "functools:partial",
  "typing:Any",
  "collections:namedtuple",
  "pydoc:pipepager",
  "runners.training:train",
  "runners.configs.files:save",
  "runners.workdir:subprocess.run",
  "runners.configs.import_by_name:import_module",
  "runners.configs.import_by_name:importlib.import_module",
  "experiments.fiddlers:apply_fiddler",
  "experiments.command_line:main",
  "experiments.__main__:main",
  "input_pipelines.foreign_files:read_bytes",
  "layers.product:jax",
  "layers.sharding:jax.numpy.load",
  "optax:GradientTransformation.__new__",
  "optax._src.utils:canonicalize_dtype",
  "flax.linen:Module.__init_subclass__",
  "jax.nn:initializers.normal",
  "jax.numpy:load",
  "jax:jit",
  "no_such_package:x",
  ".x:y",
  "a..b:c",
)
