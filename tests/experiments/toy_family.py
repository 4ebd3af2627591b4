"""A family outside the package, with every kind of field that an override can meet."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import fiddle as fdl
from flax import linen as nn

from experiments.fiddlers import fiddler
from experiments.references import register_reference
from experiments.registry import Experiment, register
from layers.dtypes import DType
from layers.errors import UserError


class Policy(enum.Enum):
  NONE = "none"
  FULL = "full"


def relu(x):
  return x * (x > 0)


def gelu(x):
  return x


class Norm(nn.Module):
  epsilon: float = 1e-6


class Model(nn.Module):
  width: int
  num_layers: int = 2
  norm: nn.Module | None = None
  activation: Callable[[Any], Any] = relu
  dtype: DType | None = None
  anything: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
  data: int = -1
  fsdp: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
  patience: int = 1
  metric: str = "loss"

  def __post_init__(self):
    if self.patience < 0:
      raise UserError(f"patience={self.patience} is less than 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  path: str | None = None
  vocabulary: Literal["characters", "bytes"] = "bytes"
  num_batches: int | None = None


def sgdm(learning_rate: float, momentum: float = 0.9) -> Stop:
  """Stands for an optimizer; only the signature matters."""
  return Stop()


def open_ended(scale: float = 1.0, **options):
  return scale, options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  model: nn.Module
  optimizer: Any
  num_steps: int | None = None
  dropout: float = 0.0
  shuffle: bool = True
  name: str = "toy"
  policy: Policy = Policy.NONE
  betas: tuple[float, float] = (0.9, 0.95)
  sizes: list[int] = dataclasses.field(default_factory=list)
  sharding: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (("batch", "data"),)
  mesh: Mesh = Mesh()
  eval_data: Mapping[str, Data] = dataclasses.field(default_factory=dict)
  callbacks: Sequence[Stop] = ()
  rates: dict[str, float] = dataclasses.field(default_factory=dict)


for reference in (relu, gelu, Norm, Stop, Data, sgdm, open_ended):
  register_reference(f"toy_{reference.__name__.lower()}", reference)


class Toy(Experiment):
  """A family; not registered itself."""

  patience: int = 3
  num_steps: int = 10

  def config(self) -> Any:
    config = fdl.Config(
      Trainer,
      model=self.model(),
      optimizer=fdl.Config(sgdm, learning_rate=0.1),
      eval_data={"validation": fdl.Config(Data, num_batches=5)},
      callbacks=[fdl.Config(Stop, patience=self.patience)],
    )
    config.num_steps = self.num_steps
    return config

  def model(self):
    return fdl.Config(Model, width=8, norm=fdl.Config(Norm))


@register(tags=("demo", "cpu"))
class Nano(Toy):
  """Nano: the smallest. Loss 0.

  More words that a list leaves out.
  """

  def model(self):
    model = super().model()
    model.width = 16
    return model


@register
class Large(Toy):
  """Large: a thousand times Nano."""


@register
class Patient(Toy):
  """Patient: numbers of its own."""

  patience, num_steps = 7, 70


@register
class Stubborn(Toy):
  """Stubborn: sets what its family would have set."""

  def config(self) -> Any:
    config = super().config()
    config.num_steps = 10
    return config


@fiddler
def toy_tiny(config, width: int = 2, steps: int = 1):
  config.model.width = width
  config.num_steps = steps


@fiddler
def toy_replaced(config):
  return fdl.Config(Trainer, model=fdl.Config(Model, width=1), optimizer=None)
