"""GPT-2 and LLaMA in PyTorch, as its users train them on one GPU, for gpu_step.py.

Float32 parameters, bfloat16 autocast, scaled_dot_product_attention, fused AdamW, clipping, and
each block compiled once for all layers (a whole model of 22 takes minutes to compile). The
vocabulary is padded to whole tiles, as nanoGPT pads it.
"""

import math
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch_gpt import GPT

_TILE = 64


class Block(nn.Module):
  """RMSNorm, rotary positions, SwiGLU, no biases."""

  def __init__(self, dim: int, num_heads: int, hidden_dim: int):
    super().__init__()
    self.num_heads = num_heads
    self.attention_norm, self.feed_forward_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
    linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
    self.query, self.key, self.value, self.out = (linear(dim, dim) for _ in range(4))
    self.gate, self.up = linear(dim, hidden_dim), linear(dim, hidden_dim)
    self.down = linear(hidden_dim, dim)

  def forward(self, x, rotation):
    y = self.attention_norm(x)
    query, key, value = (
      _heads(project(y), self.num_heads) for project in (self.query, self.key, self.value)
    )
    query, key = (_rotated(heads, rotation).to(value.dtype) for heads in (query, key))
    x = x + self.out(_attend(query, key, value))
    y = self.feed_forward_norm(x)
    return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
  """Blocks that share one table of rotations, and a head of its own."""

  def __init__(self, vocab_size: int, length: int, sizes: dict[str, int]):
    super().__init__()
    dim, num_heads = sizes["model_dim"], sizes["num_heads"]
    self.embedding = nn.Embedding(vocab_size, dim)
    layers = (Block(dim, num_heads, sizes["hidden_dim"]) for _ in range(sizes["num_layers"]))
    self.blocks = nn.ModuleList(layers)
    self.norm = nn.RMSNorm(dim)
    self.head = nn.Linear(dim, vocab_size, bias=False)
    features = torch.linspace(0, 1, dim // num_heads // 2 + 1)[:-1]
    angles = torch.arange(length)[:, None] * torch.exp(-math.log(10_000) * features)
    self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]))

  def forward(self, ids):
    x = self.embedding(ids)
    for block in self.blocks:
      x = block(x, self.rotation)
    return self.head(self.norm(x))


def model(family: str, sizes: dict[str, int], length: int) -> Any:
  """ids [B, T] -> logits [B, T, V], of family "gpt2" or "llama"."""
  vocab_size = _TILE * math.ceil(sizes["vocab_size"] / _TILE)
  if family == "llama":
    return Llama(vocab_size, length, sizes)
  dim, num_layers, num_heads = (sizes[f] for f in ("model_dim", "num_layers", "num_heads"))
  return GPT(vocab_size, length, dim, num_layers, num_heads, use_bias=True)


def measured(
  family: str, sizes: dict[str, int], num_rows: int, length: int, repeats: int
) -> dict[str, Any]:
  """Median "seconds" of an update on random ids, "peak" bytes of the GPU, None on a CPU."""
  from on_device import median_seconds

  on_gpu = torch.cuda.is_available()
  device = "cuda" if on_gpu else "cpu"
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  trained = model(family, sizes, length).to(device)
  for parameter in trained.parameters():
    if parameter.dim() > 1:
      nn.init.normal_(parameter, std=0.02)
  if on_gpu:
    for block in trained.blocks:
      block.compile()
  optimizer = torch.optim.AdamW(
    trained.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
  )
  ids = torch.randint(sizes["vocab_size"], (num_rows, length), device=device)

  def run() -> None:
    with torch.autocast(device, torch.bfloat16):
      logits = trained(ids)
      loss = F.cross_entropy(logits.flatten(0, 1).float(), ids.roll(-1, dims=1).flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not math.isfinite(loss.item()):  # waits for the device
      raise FloatingPointError("the loss is not finite")

  began = time.perf_counter()
  run()
  first = time.perf_counter() - began
  seconds = median_seconds(run, repeats)
  peak = torch.cuda.max_memory_allocated() if on_gpu else None
  return {"seconds": seconds, "first": first, "peak": peak}


def _heads(x, num_heads: int):
  """[B, T, D] as [B, N, T, H]."""
  return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _attend(query, key, value):
  """Causal attention of [B, N, T, H], as [B, T, D]."""
  mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
  return mixed.transpose(1, 2).flatten(2)


def _rotated(heads, rotation):
  """Rotary positions: the halves of the features are the two coordinates."""
  cos, sin = rotation
  x, y = heads.chunk(2, -1)
  return torch.cat((x * cos - y * sin, y * cos + x * sin), -1)
