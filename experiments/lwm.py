"""Large World Model (Liu et al., 2024, https://arxiv.org/abs/2402.08268): a million tokens.

runner --exp=lwm.TextLlamaDebug
runner --exp=lwm.TextLlama7B32K --set=init_from=runs/lwm.TextLlama7B --set=mesh.fsdp=32
runner --exp=lwm.TextLlamaDebug --set=train_data.files='my/*.jsonl'

Without files a member reads the embedded sources as bytes: ids below 259 of 32,000.
The paper gives theta and length of each stage, tokens a step, and steps; its training script
gives the constant rate, the warmup and the decay.
The optimizer follows LWM's code (tux, optimizers.py): AdamW with b1 0.9, b2 0.95, eps 1e-8,
gradients clipped to a norm of 1, and a decay of 0.1 times the rate on every parameter, norm
scales and embeddings included. The loss is a mean over tokens; LWM's code takes a mean over
rows, which is --set=objective=@RowMeanNextToken.
LWM takes its 4K models from LLaMA 2, so the 4K members have the rates of LLaMA's pretraining.
The smallest one has a rate at which 300 steps show progress.
"""

import fiddle as fdl

from experiments.llama import SIZES, Llama
from experiments.registry import register
from runners import optimizers, schedules
from runners.checkpoints.retention import Checkpoints
from runners.devices.collective_budget import Allowance
from runners.devices.meshes import MeshShape
from tasks.jsonl import Jsonl

TOKENS_PER_STEP = 2**22


def lwm_adamw(learning_rate: fdl.Config) -> fdl.Config:
  """LWM's optimizer, which decays every parameter."""
  return fdl.Config(
    optimizers.adamw,
    learning_rate=learning_rate,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    decay_mask=None,
  )


class TextLlama(Llama):
  """Text at 4K: 4 M tokens a step, all devices along fsdp.

  Each member's docstring says how many devices can hold parameters and moments. To fit the
  activations, set `microbatch_size` to the number of devices: one row on each at a time.
  """

  sequence_length = 4096
  batch_size = TOKENS_PER_STEP // 4096
  num_steps = 250_000
  eval_every = 1000
  remat = "full"
  peak_learning_rate = 3e-4

  def train_data(self) -> fdl.Config:
    return fdl.Config(Jsonl, split="train")

  def mesh(self) -> fdl.Config:
    return fdl.Config(MeshShape, data=1, fsdp=-1)

  def optimizer(self) -> fdl.Config:
    peak = self.peak_learning_rate
    rate = fdl.Config(schedules.warmup_cosine, peak=peak, end=round(peak / 10, 10), warmup=2000)
    return lwm_adamw(rate)

  def collective_budget(self) -> list[fdl.Config]:
    # A layer's nine weights are gathered, forward and backward, along the axes that split them.
    # Activations are not: where rows are split, the ring and the loss pass on parts of them.
    gathers = [
      fdl.Config(Allowance, kind="all-gather", axis=axis, per_layer=20, per_pass=8)
      for axis in ("fsdp", "sequence")
    ]
    return [*gathers, fdl.Config(Allowance, kind="all-to-all", axis="sequence")]

  def checkpoints(self) -> fdl.Config:
    return fdl.Config(Checkpoints, every=500)


@register(tags=("cpu",))
class TextLlamaDebug(TextLlama):
  """LWM-Text at its smallest, 17.3 M parameters: to see that all works. One device."""

  size = SIZES["debug"]
  batch_size, microbatch_size = 4, 1
  remat = "none"
  num_steps = 300
  eval_every = 100

  def optimizer(self) -> fdl.Config:
    rate = fdl.Config(schedules.warmup_cosine, peak=1e-3, end=1e-4, warmup=0.1)
    return lwm_adamw(rate)


@register
class TextLlama200M(TextLlama):
  """LWM-Text 200M at 4K context: 212.4 M parameters. 8 devices: fsdp=8."""

  size = SIZES["200m"]


@register
class TextLlama1B(TextLlama):
  """LWM-Text 1B at 4K context: 1.244 B parameters. 8 devices of 80 GB: fsdp=8."""

  size = SIZES["1b"]


@register
class TextLlama3B(TextLlama):
  """LWM-Text 3B at 4K context: 3.426 B parameters. 16 devices of 80 GB: fsdp=16."""

  size = SIZES["3b"]


@register
class TextLlama7B(TextLlama):
  """LWM-Text 7B at 4K context: 6.738 B parameters. 32 devices: fsdp=32."""

  size = SIZES["7b"]


@register
class TextLlama13B(TextLlama):
  """LWM-Text 13B at 4K context: 13.016 B parameters. 64 devices: fsdp=64."""

  size = SIZES["13b"]


@register
class TextLlama30B(TextLlama):
  """LWM-Text 30B at 4K context: 32.529 B parameters. 128 devices: fsdp=32, tensor=4."""

  size = SIZES["30b"]
  peak_learning_rate = 1.5e-4


@register
class TextLlama65B(TextLlama):
  """LWM-Text 65B at 4K context: 65.286 B parameters. 256 devices: fsdp=64, tensor=4."""

  size = SIZES["65b"]
  peak_learning_rate = 1.5e-4


class Stage(TextLlama):
  """A stage of the 7B model at a longer context, from the parameters of the stage before.

  4 M tokens a step at a constant 8e-5 after 5 steps of warmup. Rows are split by length, since
  there are fewer rows than devices. Attention's output is saved, since recomputing it would
  cost more than everything else. The feed-forward has no chunks: compiled for 64 H100 at 1M,
  where a device has 16 K tokens, they take 0.5 GiB more than they save.
  """

  size = SIZES["7b"]
  before: str
  eval_every = None
  remat = "save_attention"

  def config(self) -> fdl.Config:
    config = super().config()
    config.init_from = f"runs/{self.before}"
    return config

  def mesh(self) -> fdl.Config:
    return fdl.Config(MeshShape, data=1, sequence=-1)

  def optimizer(self) -> fdl.Config:
    return lwm_adamw(fdl.Config(schedules.constant, peak=8e-5, warmup=5))

  def checkpoints(self) -> fdl.Config:
    return fdl.Config(Checkpoints, every=100)


@register
class TextLlama7B32K(Stage):
  """LWM-Text 7B at 32K context, theta 1e6: 4.8 B tokens. 32 devices: fsdp=8, sequence=4."""

  before = "lwm.TextLlama7B"
  theta, sequence_length, batch_size = 1e6, 2**15, TOKENS_PER_STEP // 2**15
  num_steps = 1200


@register
class TextLlama7B128K(Stage):
  """LWM-Text 7B at 128K context, theta 1e7: 12 B tokens. 64 devices: fsdp=8, sequence=8."""

  before = "lwm.TextLlama7B32K"
  theta, sequence_length, batch_size = 1e7, 2**17, TOKENS_PER_STEP // 2**17
  num_steps = 3000


@register
class TextLlama7B256K(Stage):
  """LWM-Text 7B at 256K context, theta 1e7: 12 B tokens. 128 devices: fsdp=8, sequence=16."""

  before = "lwm.TextLlama7B128K"
  theta, sequence_length, batch_size = 1e7, 2**18, TOKENS_PER_STEP // 2**18
  num_steps = 3000


@register
class TextLlama7B512K(Stage):
  """LWM-Text 7B at 512K context, theta 2.5e7: 3 B tokens. 128 devices: fsdp=4, sequence=32."""

  before = "lwm.TextLlama7B256K"
  theta, sequence_length, batch_size = 2.5e7, 2**19, TOKENS_PER_STEP // 2**19
  num_steps = 720


@register
class TextLlama7B1M(Stage):
  """LWM-Text 7B at 1M context, theta 5e7: 1.8 B tokens. 128 devices: fsdp=4, sequence=32."""

  before = "lwm.TextLlama7B512K"
  theta, sequence_length, batch_size = 5e7, 2**20, TOKENS_PER_STEP // 2**20
  num_steps = 450
