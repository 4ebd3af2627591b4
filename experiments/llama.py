"""The LLaMA family (Touvron et al., 2023, https://arxiv.org/abs/2302.13971)."""

import dataclasses
import functools

import fiddle as fdl

from experiments.language_model import LanguageModel
from layers.attention import Attention
from layers.attention_cores.auto import auto_attention
from layers.block import Block
from layers.decoder import Decoder
from layers.feed_forward import GatedFeedForward
from layers.normalization import RMSNorm
from layers.rematerialization import RematPolicy
from layers.rotary import Llama3Scaling, Rotary
from layers.sharding import Rules
from runners.devices.meshes import DEFAULT_RULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """Depth and widths; heads are model_dim / num_heads wide.

  Attributes:
    vocab_size: None: the data's. Published sizes keep their own, so that parameter counts
      are the published ones.
    epsilon: of the norms.
    theta: of the rotary positions.
    scaling: see `Rotary`.
  """

  num_layers: int
  num_heads: int
  model_dim: int
  hidden_dim: int
  num_kv_heads: int | None = None
  vocab_size: int | None = None
  epsilon: float = 1e-6
  theta: float = 10_000.0
  scaling: type | None = None


_size = functools.partial(Size, vocab_size=32_000)
_size3 = functools.partial(Size, vocab_size=128_256, epsilon=1e-5, theta=500_000.0)

# The first eight sizes are in Large World Model's code (https://arxiv.org/abs/2402.08268); 7b,
# 13b, 30b and 65b are also LLaMA's. The others: LLaMA 2 (https://arxiv.org/abs/2307.09288,
# table 1) and LLaMA 3 (https://arxiv.org/abs/2407.21783, table 3), 3.1 with 128 K tokens.
SIZES = {
  "debug": _size(num_layers=2, num_heads=2, model_dim=256, hidden_dim=256),
  "200m": _size(num_layers=14, num_heads=8, model_dim=1024, hidden_dim=2048),
  "1b": _size(num_layers=22, num_heads=16, model_dim=2048, hidden_dim=5504),
  "3b": _size(num_layers=26, num_heads=32, model_dim=3200, hidden_dim=8640),
  "7b": _size(num_layers=32, num_heads=32, model_dim=4096, hidden_dim=11008),
  "13b": _size(num_layers=40, num_heads=40, model_dim=5120, hidden_dim=13824),
  "30b": _size(num_layers=60, num_heads=52, model_dim=6656, hidden_dim=17920),
  "65b": _size(num_layers=80, num_heads=64, model_dim=8192, hidden_dim=22016, epsilon=1e-5),
  "llama2-70b": _size(
    num_layers=80,
    num_heads=64,
    num_kv_heads=8,
    model_dim=8192,
    hidden_dim=28672,
    epsilon=1e-5,
  ),
  "llama3-8b": _size3(
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    model_dim=4096,
    hidden_dim=14336,
  ),
  "llama3-70b": _size3(
    num_layers=80,
    num_heads=64,
    num_kv_heads=8,
    model_dim=8192,
    hidden_dim=28672,
  ),
}
SIZES["llama3.1-8b"] = dataclasses.replace(SIZES["llama3-8b"], scaling=Llama3Scaling)
SIZES["llama3.1-70b"] = dataclasses.replace(SIZES["llama3-70b"], scaling=Llama3Scaling)

# The default rules, but with weights split over fsdp and sequence, so that splitting rows by
# length copies no weight. As in LWM, except that norm scales are split here too.
RULES: Rules = tuple(
  (name, ("fsdp", "sequence") if name == "embed" else axes)
  for name, axes in DEFAULT_RULES
  if name != "position"  # there is no table of positions
)


class Llama(LanguageModel):
  """The family: rotary positions, pre-norm, SwiGLU, no biases, a head of its own."""

  size: Size
  theta: float | None = None  # None: the size's
  scan_layers: bool = True
  remat: RematPolicy = "none"

  def model(self) -> fdl.Config:
    size = self.size
    norm = lambda: fdl.Config(RMSNorm, epsilon=size.epsilon)
    rotary = fdl.Config(Rotary, theta=self.theta or size.theta)
    if size.scaling is not None:
      rotary.scaling = fdl.Config(size.scaling)
    attention = fdl.Config(
      Attention,
      num_heads=size.num_heads,
      core=auto_attention,
      rotary=rotary,
      use_bias=False,
      residual_depth=None,  # all weights start with the same standard deviation
    )
    if size.num_kv_heads is not None:
      attention.num_kv_heads = size.num_kv_heads
    block = fdl.Config(
      Block,
      attention=attention,
      feed_forward=fdl.Config(
        GatedFeedForward, hidden_dim=size.hidden_dim, residual_depth=None
      ),
      norm=norm(),
    )
    model = fdl.Config(
      Decoder,
      num_layers=size.num_layers,
      model_dim=size.model_dim,
      block=block,
      norm=norm(),
      learned_positions=False,
      tied_head=False,
      loss_chunk=1024,
      scan_layers=self.scan_layers,
      remat=self.remat,
    )
    if size.vocab_size is not None:
      model.vocab_size = size.vocab_size
    return model

  def sharding(self) -> Rules:
    return RULES
