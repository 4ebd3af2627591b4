"""Trainer: every field that an experiment can set.

An experiment returns one `fdl.Config[Trainer]`. What can be derived (vocabulary size, schedule
lengths, position range, dtypes, accumulation) is left unset there and derived when the
runner materialises the config: see runners/derivation.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import optax

from input_pipelines.batches import Data
from layers.dtypes import DType
from layers.ranges import PositiveInt, Seed
from layers.sharding import Rules
from runners.callbacks import Callback
from runners.checkpoints.retention import Checkpoints
from runners.configs.fields import ONLY_IF_SET
from runners.devices.collective_budget import Allowance
from runners.devices.meshes import DEFAULT_RULES, MeshShape
from runners.interchange.init_from import InitFrom
from runners.metrics.writers import WriterConfig
from runners.optimizer_labels import one_transformation
from runners.train_step import TrainStep
from tasks.objective import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
  """Number formats.

  Attributes:
    compute_dtype: of the operands of products, which accumulate in float32. None: bfloat16 on
      accelerators, float32 on CPU.
    param_dtype: of parameters; the optimizer's moments are float32 in any case.
    activation_dtype: of activations between layers. None: compute_dtype on accelerators,
      float32 on CPU, where narrower elementwise work is slower.
  """

  compute_dtype: DType | None = None
  param_dtype: DType = DType("float32")
  activation_dtype: DType | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """A whole training run.

  Attributes:
    model: called as the objective calls it.
    objective: loss and metrics.
    train_data: the training data.
    eval_data: name -> evaluation data; data of train_data's class take their unset fields
      from it.
    optimizer: an optax transformation, or several by label: see runners/optimizer_labels.py.
    mesh: devices along each axis.
    sharding: ordered (logical axis, mesh axis) rules.
    num_steps: optimizer updates; or num_epochs, passes over train_data.
    batch_size: rows per update, over all devices: sequences, images, ...
    sequence_length: tokens per sequence; of no account to data that have none.
    microbatch_size: sequences per forward pass, over all devices; None: batch_size. A
      divisor of batch_size: gradients of the microbatches are summed.
    precision: number formats.
    seed: of parameters, data order and dropout.
    log_every, eval_every: in steps. eval_every None: at the end only.
    checkpoints: when to save and what to keep.
    callbacks: called in this order after each step.
    writers: where scalars go, all at once.
    init_from: a run, checkpoint or Hugging Face folder whose parameters a fresh run begins
      with; see runners/interchange/init_from.py.
    collective_budget: collectives that the program may contain; `runner plan` checks it.
    step: how an update is made of a batch: see runners/train_step.py.
  """

  model: nn.Module
  objective: Objective
  train_data: Data
  optimizer: optax.GradientTransformation | Mapping[str, optax.GradientTransformation]
  batch_size: PositiveInt
  sequence_length: PositiveInt
  eval_data: Mapping[str, Data] | None = None
  mesh: MeshShape = MeshShape()
  sharding: Rules = DEFAULT_RULES
  num_steps: PositiveInt | None = None
  num_epochs: PositiveInt | None = None
  microbatch_size: PositiveInt | None = None
  precision: Precision = Precision()
  seed: Seed = 0
  log_every: PositiveInt = 10
  eval_every: PositiveInt | None = None
  checkpoints: Checkpoints = Checkpoints()
  callbacks: Sequence[Callback] = ()
  writers: Sequence[WriterConfig] = ()
  init_from: str | InitFrom | None = None
  collective_budget: Sequence[Allowance] = ()
  step: TrainStep = dataclasses.field(default=TrainStep(), metadata=ONLY_IF_SET)

  @property
  def transformation(self) -> optax.GradientTransformation:
    """The optimizer as one, also where there are several."""
    return one_transformation(self.optimizer)

  @property
  def num_microbatches(self) -> int:
    """The number of forward passes in an update."""
    return self.batch_size // (self.microbatch_size or self.batch_size)

  @property
  def units_per_step(self) -> float:
    """Tokens, or other `train_data.units`, of the global batch, padding included."""
    return self.batch_size * self.train_data.units_per_row(self.sequence_length)
